"""The examples of docs/lanes.md are what readers will write: they type, they run, they do what it says."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import APIRouter
from lifeguard.database import Database
from lifeguard.pool import OutsideLane, Pool

from tests.inside import service, settings_for

ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs/lanes.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def modules() -> list[ModuleType]:
    made = []
    for number, example in enumerate(EXAMPLES):
        module = ModuleType(f"example_{number}")
        exec(compile(example, module.__name__, "exec"), vars(module))  # noqa: S102 - our own
        made.append(module)
    return made


@pytest.fixture
def borrowed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, object]]:
    seen: list[tuple[object, object]] = []
    acquire = Pool.acquire

    def noting(self: Pool, **how: Any) -> Any:
        if how.get("lane", "breaker") not in {"breaker", "readiness"}:
            seen.append((how["lane"], how["priority"]))
        return acquire(self, **how)

    monkeypatch.setattr(Pool, "acquire", noting)
    return seen


async def test_they_put_requests_where_the_page_says(
    modules: list[ModuleType], borrowed: list[tuple[object, object]], database_url: str
) -> None:
    routes = APIRouter()
    for module in modules:
        for router in vars(module).values():
            if isinstance(router, APIRouter):
                routes.include_router(router)
    async with service(settings_for(database_url), routes=routes) as running:
        client = running.client
        for method, path in (
            ("GET", "/reports/turnover"),
            ("GET", "/reports/balance"),
            ("POST", "/payments"),
            ("GET", "/shop/orders"),
        ):
            answer = await client.request(method, path, headers={"X-Tenant": "anna"})
            assert answer.is_success, answer.text
    assert borrowed == [
        ("reports", "normal"),
        ("reports", "background"),
        ("POST /payments", "critical"),
        (OutsideLane("tenant/anna"), "normal"),
    ]


async def test_its_jobs_borrow_where_the_page_says(
    modules: list[ModuleType], borrowed: list[tuple[object, object]], database_url: str
) -> None:
    (nightly,) = [vars(module)["nightly"] for module in modules if "nightly" in vars(module)]
    database = Database(settings_for(database_url))
    await database.open()
    try:
        await nightly(database)
    finally:
        await database.close()
    assert borrowed == [("nightly", "normal")] * 3


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_they_are_typed(tmp_path: Path) -> None:
    paths = [tmp_path / f"example_{number}.py" for number in range(len(EXAMPLES))]
    for path, example in zip(paths, EXAMPLES, strict=True):
        path.write_text(example)
    command = [sys.executable, "-m", "mypy", "--strict", *map(str, paths)]
    mypy = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert mypy.returncode == 0, mypy.stdout + mypy.stderr
