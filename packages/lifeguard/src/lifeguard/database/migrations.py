"""Bringing the schema up to date, by Alembic's revisions: one file each in `migrations/versions`.

Alembic uses SQLAlchemy, on a connection that is made as all others of this service. So the URL, its TLS
and the password file mean the same here. A pooler in transaction mode must not be in
between: the lock that keeps others out belongs to the session.

A statement that waits for a lock on a table makes every later one wait behind it. So a revision gives up
its wait soon, is rolled back, and is tried again a little later.
"""

from __future__ import annotations

import asyncio
import random
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection as SyncConnection
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from lifeguard.database.blockers import Blockers, blockers_of
from lifeguard.database.concurrently import name_invalid_indexes, prepare_concurrent_statements
from lifeguard.database.connect_options import check, milliseconds, with_remedy
from lifeguard.database.errors import MigrationError
from lifeguard.database.migrating_session import TABLE_WAIT, migrating_session
from lifeguard.database.schema import SchemaState, current_revision, schema_state
from lifeguard.pool import is_through_pooler
from lifeguard.settings import Settings

# The process that holds this lock may change the schema. Any number will do, if nothing else here uses it.
_LOCK = 0x6D6967726174696F  # "migratio"
# Seconds between two attempts to get it, half of them random; and until it gives up.
_LOCK_INTERVAL = 0.2
_LOCK_PATIENCE = 300.0

# Seconds that a revision pauses when a table is in use: first and longest pause, doubling, half of it random.
# After _TABLE_PATIENCE it gives up: what holds a table that long is a dump or a forgotten transaction, and a
# person has to look.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_TABLE_PATIENCE = 300.0
_SHOWN = 120  # characters of a statement, in events and errors

_log = structlog.get_logger("lifeguard.database")


async def upgrade(settings: Settings) -> SchemaState:
    """Bring the schema up to date, and return its state.

    Looks first and takes no lock when there is nothing to do. Of several that start at once, one
    migrates and the others wait for it. Every revision is committed by itself. One that meets a table in
    use is tried again for up to five minutes. Raises MigrationError, and SettingsError if no connection
    could ever be made.
    """
    check(settings)
    try:
        async with migrating_session(settings) as connection:
            if (state := await schema_state(connection, settings.migrations)).is_old:
                _refuse_pooler(connection)
                await _lock(connection)
                if (state := await schema_state(connection, settings.migrations)).is_old:
                    _log.info("migration_starts", current=state.current, head=state.head)
                    await _apply(connection, settings)
                    state = SchemaState(state.head, state.head, known=True)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, CommandError, DBAPIError, OSError) as error:
        raise MigrationError(_explain(error)) from error
    if state.standing == "ahead":
        _log.warning("schema_ahead", current=state.current, head=state.head)
    else:
        _log.info("schema_ready", current=state.current, head=state.head)
    return state


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """One of the service's connections, as SQLAlchemy sees it, for Alembic's other commands."""
    async with migrating_session(settings) as connection, _adapted(connection) as adapted:
        yield adapted


def _refuse_pooler(connection: asyncpg.Connection) -> None:
    if is_through_pooler(connection):
        raise MigrationError(
            "a pooler is in between, and the lock that keeps others out belongs to a session: give `migrate`"
            " a DATABASE_URL that reaches the server itself, or POOL_PGBOUNCER=off if the pooler keeps"
            " sessions apart"
        )


def _config(migrations: Path, connection: SyncConnection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(migrations))
    config.set_main_option("path_separator", "os")
    return config


async def _lock(connection: asyncpg.Connection) -> None:
    """Wait for the right to migrate; it ends with the session.

    Asked for again and again instead of waited for at the server, where the waiting statement would
    hold a snapshot, on which a CREATE INDEX CONCURRENTLY of the migration would wait in turn.
    """
    patience = asyncio.get_running_loop().time() + _LOCK_PATIENCE
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        if asyncio.get_running_loop().time() > patience:
            raise MigrationError(f"another process has been migrating for {_LOCK_PATIENCE:g} s")
        await asyncio.sleep(_LOCK_INTERVAL * random.uniform(0.5, 1))  # noqa: S311 - jitter


async def _apply(connection: asyncpg.Connection, settings: Settings) -> None:
    """Run what is missing, again from where it stopped when a table was in use."""
    patience = _Patience()
    pid = connection.get_server_pid()
    async with (
        _adapted(connection) as adapted,
        blockers_of(pid, lambda: migrating_session(settings)) as blockers,
    ):
        while True:
            blockers.seen = []
            try:
                await adapted.run_sync(
                    lambda sync: command.upgrade(_config(settings.migrations, sync), "head")
                )
            except DBAPIError as error:
                await adapted.rollback()
                if not _met_a_lock(error):
                    raise
                await patience.pause(await current_revision(connection), error, blockers)
                await connection.execute(f"SET lock_timeout = {milliseconds(TABLE_WAIT)}")
            else:
                await name_invalid_indexes(connection)
                return


class _Patience:
    """How long a revision that meets a table in use is tried again, and how often."""

    def __init__(self) -> None:
        self._revision: str | None = None
        self._tries = 0
        self._ends_at = 0.0

    async def pause(self, revision: str | None, error: DBAPIError, blockers: Blockers) -> None:
        """Let the others pass before the next try of what comes after `revision`. Raises MigrationError when
        that has been tried for long enough."""
        now = asyncio.get_running_loop().time()
        if not self._tries or revision != self._revision:
            self._revision, self._tries, self._ends_at = revision, 0, now + _TABLE_PATIENCE
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._tries, 30), _LONGEST_PAUSE)
        pause *= random.uniform(0.5, 1)  # noqa: S311 - jitter
        self._tries += 1
        statement = textwrap.shorten(error.statement or "", _SHOWN, placeholder=" ...")
        if now + pause > self._ends_at:
            raise MigrationError(
                f"a table was in use at each of {self._tries} tries in {_TABLE_PATIENCE:g} s, at last by"
                f" {'; '.join(blockers.seen) or 'nobody who was seen'}; not applied: {statement}"
            ) from error
        _log.warning(
            "migration_blocked", blocked_by=blockers.seen, statement=statement, retry_in=round(pause, 2)
        )
        await asyncio.sleep(pause)


def _met_a_lock(error: DBAPIError) -> bool:
    return isinstance(_cause(error), (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError))


@asynccontextmanager
async def _adapted(connection: asyncpg.Connection) -> AsyncIterator[AsyncConnection]:
    async def give() -> Any:  # SQLAlchemy has no type for it
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=give, poolclass=NullPool)
    prepare_concurrent_statements(engine.sync_engine, milliseconds(TABLE_WAIT))
    async with engine.connect() as adapted:
        yield adapted


def _cause(error: Exception) -> BaseException:
    """What asyncpg raised."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _explain(error: Exception) -> str:
    """Say in one line what failed."""
    cause = _cause(error)
    reason = with_remedy(str(cause).partition("\n")[0])
    if isinstance(cause, asyncpg.ActiveSQLTransactionError):
        reason += " (the revision needs `with op.get_context().autocommit_block():` around it)"
    return f"cannot migrate: {type(cause).__name__}: {reason}"
