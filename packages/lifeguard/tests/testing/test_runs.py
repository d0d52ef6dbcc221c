"""Whole runs of pytest with the fixtures: in parallel, without a service, killed."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from lifeguard.testing.processes import environment
from lifeguard.testing.servers import is_running, server_directory
from lifeguard.testing.waiting import eventually

pytestmark = pytest.mark.slow  # runs of pytest with servers of their own

CONFTEST = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
CONFIGURATION = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
addopts = --strict-markers -p no:cacheprovider
filterwarnings = error
"""
PARALLEL = """
import os
import pytest

@pytest.mark.parametrize("item", ["a", "b", "c", "d"])
async def test_order(client, postgres, item):
    await client.post("/orders", params={"item": item})
    assert (await client.get("/orders")).json() == [item]
    with open(f"server-{os.environ['PYTEST_XDIST_WORKER']}", "w") as file:
        file.write(str(postgres.pid))
"""
KILLED = """
import threading
from pathlib import Path

def test_hangs(postgres):
    Path("server.new").write_text(f"{postgres.pid} {postgres.directory.parent}")
    Path("server.new").rename("server")
    threading.Event().wait()
"""


def pytest_in(directory: Path, test: str, conftest: str, *arguments: str) -> subprocess.Popen[str]:
    (directory / "pytest.ini").write_text(CONFIGURATION)
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_it.py").write_text(test)
    ours = {name: value for name, value in environment().items() if not name.startswith("PYTEST_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=directory,
        env=ours,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_workers_have_a_server_each_and_stop_it(tmp_path: Path) -> None:
    run = pytest_in(tmp_path, PARALLEL, CONFTEST, "-n", "2", "--dist", "each")
    output = run.communicate()[0]
    assert run.returncode == 0, output
    servers = [int(path.read_text()) for path in tmp_path.glob("server-*")]
    assert len(set(servers)) == 2
    assert not any(map(is_running, servers))


def test_without_a_service_the_ten_lines_are_said(tmp_path: Path) -> None:
    run = pytest_in(tmp_path, "async def test_it(client): ...", "")
    output = run.communicate()[0]
    assert run.returncode == 1
    assert "return ServiceUnderTest(create_app, Settings)" in output


async def test_a_killed_run_leaves_no_server_and_the_next_one_removes_its_files(tmp_path: Path) -> None:
    run = pytest_in(tmp_path, KILLED, "")
    told = tmp_path / "server"
    await eventually(told.exists)
    pid, directory = told.read_text().split()
    run.kill()
    await asyncio.to_thread(run.communicate)
    await eventually(lambda: not is_running(int(pid)))
    with server_directory() as ours:
        assert ours.is_dir()
        assert not Path(directory).exists()
