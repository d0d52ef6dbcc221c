"""Bringing the schema up to date, by Alembic's revisions: one file each in `migrations/versions`.

Alembic speaks SQLAlchemy; the connection under it is the one this service makes everywhere, so the
URL, its TLS and the password file mean the same here. A pooler in transaction mode must not be in
between: the lock that keeps others out belongs to the session.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

from app.database import schema
from app.database.connecting import check, connect_options, dsn, prepare_session, with_remedy
from app.database.errors import MigrationError
from app.database.schema import SchemaState, schema_state
from app.pool import Connector
from app.settings import Settings

# Whoever holds this lock may change the schema. Any number will do, if nothing else here takes it.
_LOCK = 0x6D6967726174696F  # "migratio"
# Seconds between two attempts to get it, half of them by chance, and until it is given up.
_LOCK_INTERVAL = 0.2
_LOCK_PATIENCE = 300.0

_log = structlog.get_logger("app.database")


async def upgrade(settings: Settings) -> SchemaState:
    """Bring the schema up to date and say where it stands.

    Looks first and takes no lock when there is nothing to do. Of several that start at once, one
    migrates and the others wait for it. Every revision is committed by itself. Raises MigrationError,
    and SettingsError if no connection could ever be made.
    """
    check(settings)
    try:
        async with _session(settings) as connection:
            if (state := await schema_state(connection)).is_old:
                await _lock(connection)
                if (state := await schema_state(connection)).is_old:
                    _log.info("migration_starts", current=state.current, head=state.head)
                    await _apply(connection)
                    state = SchemaState(state.head, state.head, known=True)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, CommandError, DBAPIError, OSError) as error:
        raise MigrationError(_explain(error, settings)) from error
    _log.info("schema_ready", current=state.current, head=state.head)
    return state


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """SQLAlchemy's view of a connection of ours, for Alembic's other commands."""
    async with _session(settings) as connection, _adapted(connection) as adapted:
        yield adapted


def _config(connection: SyncConnection | None = None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(schema.SCRIPTS))
    config.set_main_option("path_separator", "os")
    return config


@asynccontextmanager
async def _session(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    others = {
        "application_name": f"{settings.service_name}:migrate",
        # A revision may take its time. Only its waits for locks stay short, because everybody else
        # queues behind them.
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
    }
    options = {**connect_options(settings, other=others), "command_timeout": None}
    connector = Connector(
        dsn(settings),
        settings.pool_connect_timeout,
        prepare_session(settings, other=others),
        options,
        keepalive=settings.pool_keepalive,
    )
    connection = await connector.connect()
    try:
        yield connection
    finally:
        await connection.close(timeout=settings.pool_connect_timeout)


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


async def _apply(connection: asyncpg.Connection) -> None:
    async with _adapted(connection) as adapted:
        await adapted.run_sync(lambda sync: command.upgrade(_config(sync), "head"))


@asynccontextmanager
async def _adapted(connection: asyncpg.Connection) -> AsyncIterator[AsyncConnection]:
    async def give() -> Any:  # SQLAlchemy has no type for it
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=give, poolclass=NullPool)
    async with engine.connect() as adapted:
        yield adapted


def _explain(error: Exception, settings: Settings) -> str:
    """One line for whoever deploys."""
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig.__cause__ or error.orig  # what asyncpg raised
    reason = with_remedy(str(cause).partition("\n")[0])
    if isinstance(cause, asyncpg.LockNotAvailableError):
        return (
            f"a table was in use for more than LOCK_TIMEOUT={settings.lock_timeout:g} s; the revision"
            " was not applied, try again"
        )
    return f"cannot migrate: {type(cause).__name__}: {reason}"
