"""What the tests of the database layer share.

make_database   `await make_database(...)`: the layer on a new database
add_revision    `add_revision("one", "CREATE ...")` to a history of the test's own
log             what is logged
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from lifeguard.database import CallScope, Database, ReadConnection
from lifeguard.testing.revisions import Revisions
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr
from structlog.testing import capture_logs

from packages.lifeguard.tests.inside import PATIENT
from packages.lifeguard.tests.sample.settings import Settings

MakeDatabase = Callable[..., Awaitable[Database]]
Log = list[MutableMapping[str, Any]]


def settings_for(url: str, **values: object) -> Settings:
    """Small and patient pools on this database, and not the name that its owner gave the service.

    `values` replace what is the default.
    """
    if isinstance(replica := values.get("database_replica_url"), str):
        values["database_replica_url"] = SecretStr(replica)
    small = {"service_name": "ledger", "pool_min_size": 1, "pool_max_size": 5}
    return Settings.model_validate({"database_url": SecretStr(url), **small, **PATIENT, **values})


@pytest.fixture
async def make_database(database_url: str) -> AsyncIterator[MakeDatabase]:
    """`await make_database(statement_timeout=1)` opens one with these settings."""
    opened: list[Database] = []

    async def make(url: str = database_url, **values: object) -> Database:
        database = Database(settings_for(url, **values))
        opened.append(database)
        await database.open()
        return database

    yield make
    await asyncio.gather(*(database.drain(timeout=20) for database in opened))


@pytest.fixture
async def database(make_database: MakeDatabase) -> Database:
    return await make_database()


@pytest.fixture
async def table(database: Database) -> str:
    """A table with one row: id 1, n 0."""
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL)")
        await connection.execute("INSERT INTO things VALUES (1, 0)")
    return "things"


def within(seconds: float, tag: str = "test") -> CallScope:
    """The scope of a call that has so many seconds left."""
    return CallScope(tag, deadline=asyncio.get_running_loop().time() + seconds)


def checks() -> list[str]:
    """Questions of breakers beside their pools that are under way."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().endswith(" check")]


async def kill_at_work(server: PostgresServer, connection: ReadConnection) -> None:
    """End the session while its borrower waits for an answer; raises what the borrower is told."""
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    sleeping = asyncio.create_task(connection.fetchval("SELECT pg_sleep(30)"))
    await eventually(lambda: is_sleeping(server, pid))
    await server.kill(pid)
    await sleeping


async def is_sleeping(server: PostgresServer, pid: int) -> bool:
    return any(row["pid"] == pid and row["wait_event"] == "PgSleep" for row in await server.backends())


@pytest.fixture
def plain_logging() -> Iterator[None]:
    """structlog as it comes, whatever a service that ran before has configured."""
    configuration = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**configuration)


@pytest.fixture
def log(plain_logging: None) -> Iterator[Log]:
    """What is logged."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Revisions:
    """A history that is empty at first."""
    revisions = Revisions(tmp_path / "migrations", Settings.migrations)
    monkeypatch.setattr(Settings, "migrations", tmp_path / "migrations")
    return revisions
