"""`make_database(...)`: the service's database layer on a new database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.database import CallScope, Database, ReadConnection
from app.settings import Settings
from tests.servers import PostgresServer
from tests.waiting import eventually

MakeDatabase = Callable[..., Awaitable[Database]]
Log = list[MutableMapping[str, Any]]


def settings_for(url: str, **values: object) -> Settings:
    """Small pools on this database; `values` replace what is the default."""
    if isinstance(replica := values.get("database_replica_url"), str):
        values["database_replica_url"] = SecretStr(replica)
    return Settings.model_validate(
        {"database_url": SecretStr(url), "pool_min_size": 1, "pool_max_size": 5, **values}
    )


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
    await asyncio.gather(*(database.drain(timeout=1) for database in opened))


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
def log() -> Iterator[Log]:
    """What is logged, whatever a service that ran before has configured."""
    configuration = structlog.get_config()
    structlog.reset_defaults()
    with capture_logs() as entries:
        yield entries
    structlog.configure(**configuration)
