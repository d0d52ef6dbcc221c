"""asyncpg's own tests pass on our pool, but for those that `left_out` names."""

import json
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from packages.lifeguard.tests.checkout import ROOT
from packages.lifeguard.tests.peers.left_out import LEFT_OUT

PATIENCE = 240  # seconds
ON_THE_POOL = ("test_pool", "test_listeners", "test_cache_invalidation", "test_adversity")
ON_A_LEASE = (
    "test_cancellation",
    "test_cursor",
    "test_execute",
    "test_logging",
    "test_prepare",
    "test_timeout",
    "test_transaction",
)
NAMES = {name for names in LEFT_OUT.values() for name in names}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """asyncpg's source distribution, of the version and with the hashes that the lock has."""
    folder = tmp_path_factory.mktemp("asyncpg")
    wanted = folder / "requirements.txt"
    wanted.write_text(locked("asyncpg"))
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "--quiet",
        "--no-deps",
    ]
    only_source: list[str | Path] = [
        "--no-binary",
        "asyncpg",
        "--require-hashes",
        "--requirement",
        wanted,
        "--dest",
        folder,
    ]
    subprocess.run([*pip, *only_source], check=True, timeout=PATIENCE)
    archive = next(folder.glob("asyncpg-*.tar.gz"))
    subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)  # noqa: S607 - POSIX
    return folder / f"asyncpg-{asyncpg.__version__}"


def locked(package: str) -> str:
    """What the lock file says of a package: its version and hashes."""
    text = (ROOT / "requirements.lock").read_text()
    start = text.index(f"\n{package}==") + 1
    return text[start : text.index("\n    #", start)]


@pytest.mark.parametrize(
    ("pool_modules", "lease_modules"), [(ON_THE_POOL, ()), ((), ON_A_LEASE)], ids=["pool", "lease"]
)
def test_they_pass(source: Path, pool_modules: tuple[str, ...], lease_modules: tuple[str, ...]) -> None:
    left_out = {name for name in NAMES if name.partition(".")[0] in pool_modules + lease_modules}
    lists = [",".join(names) for names in (pool_modules, lease_modules, sorted(left_out))]
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "packages.lifeguard.tests.peers.asyncpg_suite",
        source,
        *lists,
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["unknown"] == []  # each that is left out is there
    assert len(report["outcomes"]) > 60
    failed = {name: text for name, text in report["outcomes"].items() if text and "skipped:" not in text}
    assert not failed, "\n\n".join(f"{name}\n{text}" for name, text in failed.items())
