"""`dev` and its files: what is saved is served, by a process that takes over from another."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from lifeguard.testing.processes import ServiceProcess, running
from lifeguard.testing.servers import is_running
from lifeguard.testing.waiting import eventually

# Whole services, with their servers. The first change may have to wait for all imports of another process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
WAIT = 60.0  # seconds until what has not come fails a test

MAIN = """
import asyncio
from pathlib import Path
from typing import ClassVar

from lifeguard import protection, settings
from lifeguard.observability import logs
from lifeguard.operations import probes
from lifeguard.service import Service
from lifeguard.web import DatabaseDep

from svc import version


class Settings(settings.Settings):
    migrations: ClassVar = Path("migrations").absolute()


async def show_version() -> str:
    return version.VERSION


async def hold(database: DatabaseDep) -> str:
    Path("held").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return version.VERSION


def create_app(settings):
    logs.configure(settings)
    service = Service(settings)
    service.protect(*protection.STANDARD)
    service.include_operators(probes.router)
    service.get("/version")(show_version)
    service.get("/held")(hold)
    return service
"""
ENV = """
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
"""
COMMAND = """
from lifeguard.commands import command_line
from svc.main import Settings, create_app

cli = command_line(create_app, Settings)
if __name__ == "__main__":
    cli()
"""


class Project:
    """A checkout with a service of one module that is edited."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.package = directory / "svc"
        self.package.mkdir()
        (directory / "migrations/versions").mkdir(parents=True)
        for name, text in {"__init__": "", "__main__": COMMAND, "main": MAIN}.items():
            (self.package / f"{name}.py").write_text(text)
        self.save("one")

    def save(self, version: str) -> None:
        """As editors do: the new file takes the old one's place."""
        self.write(f"VERSION = {version!r}\n")

    def write(self, text: str) -> None:
        new = self.package / ".version.py.new"
        new.write_text(text)
        new.rename(self.package / "version.py")

    def revise(self, revision: str, *, after: str | None = None) -> None:
        """Save a revision that does nothing."""
        (self.directory / "migrations/env.py").write_text(ENV)
        text = f"revision = {revision!r}\ndown_revision = {after!r}\n\n\ndef upgrade():\n    pass\n"
        (self.directory / f"migrations/versions/{revision}_one.py").write_text(text)

    @property
    def postmaster(self) -> int:
        return int((self.directory / ".data/postgres18/data/postmaster.pid").read_text().split()[0])

    def processes(self) -> set[int]:
        """Of the service: those that run in the directory."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "cwd").readlink().is_relative_to(self.directory) and is_running(
                    int(process.name)
                ):
                    found.add(int(process.name))
            except OSError:  # it has just ended
                continue
        return found

    @asynccontextmanager
    async def served(self, *arguments: str, **variables: str) -> AsyncIterator[ServiceProcess]:
        command = ["-m", "svc", "dev", *arguments]
        async with running(command, cwd=self.directory, variables=variables) as service:
            yield service


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


async def serves(service: ServiceProcess, version: str) -> bool:
    """Whether it answers with this version. The port is open all the time; a connection on which nothing was
    asked yet may be closed by the process that goes."""
    try:
        answer = await service.get("/version")
    except httpx.ConnectError:
        raise
    except httpx.TransportError:
        return False
    assert answer.status_code == httpx.codes.OK
    return bool(answer.json() == version)


async def test_new_code_is_served_and_the_database_stays(project: Project) -> None:
    async with project.served() as service:
        assert await serves(service, "one")
        server, processes = project.postmaster, project.processes()
        for version in ("two", "three"):
            project.save(version)
            await eventually(lambda version=version: serves(service, version), WAIT)  # type: ignore[misc]
        assert project.postmaster == server
        await eventually(lambda: len(project.processes()) == len(processes))
        assert await service.end(signal.SIGINT) == 0
        assert service.output.count("reloaded in") == 2
        await eventually(lambda: not project.processes())
        assert await service.refuses("/version")


async def test_code_that_cannot_be_loaded_is_shown_and_replaces_nothing(project: Project) -> None:
    async with project.served() as service:
        for broken in ("VERSION = (\n", "raise RuntimeError('on import')\n"):
            project.write(broken)
            told = service.output.count("not loaded: the code from before goes on serving")
            await eventually(lambda told=told: service.output.count("not loaded") > told, WAIT)  # type: ignore[misc]
            assert await serves(service, "one")
        assert "SyntaxError: '(' was never closed" in service.output
        assert "RuntimeError: on import" in service.output
        project.save("two")
        await eventually(lambda: serves(service, "two"), WAIT)
        assert await service.end(signal.SIGINT) == 0


async def test_an_environment_file_that_comes_later_is_read(project: Project) -> None:
    environment = project.directory / ".env"
    async with project.served() as service:
        environment.write_text("POOL_MAX_SIZE=none\n")
        await eventually(lambda: "not loaded" in service.output, WAIT)
        assert "POOL_MAX_SIZE=none: must be" in service.output
        environment.write_text("POOL_MAX_SIZE=7\n")
        await eventually(lambda: '"max_size": 7' in service.output, WAIT)
        environment.unlink()
        await eventually(lambda: service.output.count("reloaded in") == 2, WAIT)
        assert await service.end(signal.SIGINT) == 0


async def test_requests_under_way_are_finished_or_cut_off_in_time(project: Project) -> None:
    async with project.served() as service:
        client = httpx.AsyncClient(base_url=service.url, timeout=None)  # noqa: S113 - it is held
        held = asyncio.create_task(client.get("/held"))
        await eventually((project.directory / "held").exists, WAIT)
        project.save("two")
        await eventually(lambda: serves(service, "two"), WAIT)
        (project.directory / "go").touch()
        answer = await held  # of the process that had it, or its word that its time was up
        await client.aclose()
        assert (answer.status_code, answer.json()) == (200, "one") or answer.status_code == 503
        await eventually(lambda: service.output.count("Finished server process") == 1)
        assert await service.end(signal.SIGINT) == 0


async def test_nothing_outlives_a_killed_one(project: Project) -> None:
    async with project.served() as service:
        project.save("two")
        await eventually(lambda: serves(service, "two"), WAIT)
        service.process.kill()
        await eventually(lambda: not project.processes())


async def test_a_revision_that_is_saved_is_not_applied_to_a_server_of_somebody_elses(
    project: Project, database_url: str
) -> None:
    project.revise("0001")
    async with project.served(DATABASE_URL=database_url) as service:
        await eventually(lambda: _revision(database_url, "0001"), WAIT)
        project.revise("0002", after="0001")
        await eventually(lambda: "DATABASE_URL is not migrated on a save" in service.output, WAIT)
        project.save("two")
        await eventually(lambda: serves(service, "two"), WAIT)
        assert await service.end(signal.SIGINT) == 0
    assert await _revision(database_url, "0001")


async def _revision(url: str, revision: str) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SELECT version_num FROM alembic_version") == revision)
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()


async def test_without_reload_it_is_one_process(project: Project) -> None:
    async with project.served("--no-reload") as service:
        assert project.processes() - {project.postmaster} >= {service.process.pid}
        children = (
            Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
        )
        assert os.getpid() not in map(int, children)
        assert await service.end(signal.SIGINT) == 0
        assert "is served when it is saved" not in service.output
