"""What the tests of the database layer share.

make_database   `await make_database(...)`: the layer on a new database
add_revision    `add_revision("one", "CREATE ...")` to a history of the test's own
log             what is logged
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol

import pytest
import structlog
from lifeguard.database import CallScope, Database, ReadConnection, schema
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr
from structlog.testing import capture_logs

from app.settings import Settings

MakeDatabase = Callable[..., Awaitable[Database]]
Log = list[MutableMapping[str, Any]]

REVISION = '''
"""A revision of a test."""
from alembic import op
revision = {revision!r}
down_revision = {down!r}

def upgrade() -> None:
    {body}

def downgrade() -> None:
    op.execute("DROP TABLE things")
'''


class AddRevision(Protocol):
    def __call__(self, revision: str, sql: str, *, autocommit: bool = False) -> None:
        """Add a revision that runs `sql`, in an `autocommit_block()` if so wanted."""


def settings_for(url: str, **values: object) -> Settings:
    """Small pools on this database, and not the name that its owner gave the service.

    `values` replace what is the default.
    """
    if isinstance(replica := values.get("database_replica_url"), str):
        values["database_replica_url"] = SecretStr(replica)
    small = {"service_name": "ledger", "pool_min_size": 1, "pool_max_size": 5}
    return Settings.model_validate({"database_url": SecretStr(url), **small, **values})


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
def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddRevision]:
    """A history that is empty at first."""
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    shutil.copy(Settings.migrations / "env.py", scripts)
    monkeypatch.setattr(Settings, "migrations", scripts)
    added: list[str] = []

    def add(revision: str, sql: str, *, autocommit: bool = False) -> None:
        body = f"op.execute({sql!r})"
        if autocommit:
            body = f"with op.get_context().autocommit_block():\n        {body}"
        code = REVISION.format(revision=revision, down=added[-1] if added else None, body=body)
        (scripts / "versions" / f"{revision}.py").write_text(code)
        added.append(revision)
        schema._revisions.cache_clear()

    schema._revisions.cache_clear()
    yield add
    schema._revisions.cache_clear()
