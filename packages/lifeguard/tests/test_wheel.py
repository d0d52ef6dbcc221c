"""The engine's wheel in environments of its own, and the examples of its README, typed as written."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from lifeguard.testing.plugin import run
from lifeguard.testing.processes import running
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.checkout import ROOT

ENGINE = ROOT / "packages/lifeguard"
UV = Path(sys.executable).with_name("uv")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),  # on a machine that has none of it, what the extra needs is downloaded
    pytest.mark.skipif(not ENGINE.exists(), reason="the engine is not here: it comes from its wheel"),
]


def blocks(language: str) -> list[str]:
    readme = (ENGINE / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def uv(*arguments: str | Path) -> str:
    done = subprocess.run([UV, *arguments], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--wheel", ENGINE, "--out-dir", directory)
    (built,) = directory.glob("*.whl")
    return built


class Installation:
    """An environment with the wheel in it and nothing of this checkout."""

    def __init__(self, directory: Path, wheel: Path, extra: str = "") -> None:
        self.directory = directory
        self.python = directory / "bin/python"
        uv("venv", "--quiet", "--python", sys.executable, directory)
        self._install(f"lifeguard-pg{extra} @ {wheel.as_uri()}")

    def _install(self, requirement: str) -> None:
        locked = (
            ROOT / "requirements-dev.lock"
        )  # newer versions are tried when the locks are brought up to date
        uv("pip", "install", "--quiet", "--python", self.python, "--constraints", locked, requirement)

    def has(self) -> set[str]:
        listed = uv("pip", "freeze", "--python", self.python)
        return {re.split(r"[=@ ]", line)[0] for line in listed.splitlines()}

    def passes_strict_types(self, script: Path) -> None:
        """By this checkout's mypy, with no configuration but `--strict`."""
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--python-executable",
            str(self.python),
        ]
        cache = f"--cache-dir={self.directory / 'mypy'}"
        done = subprocess.run(
            [*command, cache, str(script)], cwd=script.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("bare"), wheel)


@pytest.fixture(scope="module")
def with_service(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(tmp_path_factory.mktemp("service"), wheel, "[service]")


@pytest.fixture
def orders(postgres: PostgresServer) -> Iterator[str]:
    """A database with the table of the README."""
    (table,) = blocks("sql")

    async def create(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(table)
        await connection.close()

    name = run(postgres.create_database())
    run(create(postgres.dsn(name)))
    yield postgres.dsn(name)
    run(postgres.drop_database(name))


class TestBare:
    def test_installs_asyncpg_and_nothing_else(self, bare: Installation) -> None:
        assert bare.has() == {"asyncpg", "lifeguard-pg"}

    def test_the_script_of_the_readme_runs_and_is_typed(
        self, bare: Installation, database_url: str, tmp_path: Path
    ) -> None:
        script = tmp_path / "script.py"
        script.write_text(blocks("python")[0])
        assert len(script.read_text().splitlines()) <= 25
        done = subprocess.run(
            [bare.python, script],
            env={"DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[:2] == ["[1, 2, 3]", "42"]
        bare.passes_strict_types(script)


class TestService:
    async def test_the_service_of_the_readme_answers_drains_and_is_typed(
        self, with_service: Installation, orders: str, tmp_path: Path
    ) -> None:
        script = tmp_path / "orders.py"
        script.write_text(blocks("python")[1])
        assert len([line for line in script.read_text().splitlines() if line]) <= 40
        variables = {"DATABASE_URL": orders, "SERVICE_NAME": "orders", "PYTHONPATH": ""}
        async with running(
            [str(script)], cwd=tmp_path, variables=variables, python=with_service.python
        ) as serving:
            await eventually(lambda: serving.answers("/readyz"))
            async with httpx.AsyncClient(base_url=serving.url) as client:
                created = await client.post("/orders", params={"item": "a bell"})
                assert (created.status_code, created.json()) == (201, {"id": 1, "item": "a bell"})
                assert (await client.get("/orders/1")).json() == created.json()
                missing = await client.get("/orders/2")
                assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")
            assert await serving.end(signal.SIGTERM) == 0
            assert "pool_drained" in serving.output
        with_service.passes_strict_types(script)


def test_the_test_of_the_readme_passes_with_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(blocks("python")[2])
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "asyncio_mode=auto",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
