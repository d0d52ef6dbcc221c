"""The session that migrates, or only looks at the schema: the service's own, but in no pool."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from lifeguard.database.connect_options import connect_options, dsn, milliseconds, prepare_session
from lifeguard.database.schema import SchemaState, schema_state
from lifeguard.pool import Connector
from lifeguard.settings import Settings

TABLE_WAIT = 0.2
"""Seconds that a revision waits for a table, with every later statement behind it."""


@asynccontextmanager
async def migrating_session(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Raises what `asyncpg.connect()` does."""
    others = {
        "application_name": f"{settings.service_name}:migrate",
        # A revision may take its time. Only its waits for locks stay short.
        "statement_timeout": "0",
        "lock_timeout": str(milliseconds(TABLE_WAIT)),
        "idle_in_transaction_session_timeout": "0",
    }
    options = {**connect_options(settings, other=others), "command_timeout": None}
    connector = Connector(
        dsn(settings),
        settings.pool_connect_timeout,
        prepare_session(settings),
        options,
        keepalive=settings.pool_keepalive,
        pgbouncer=settings.pool_pgbouncer,
    )
    connection = await connector.connect()
    try:
        yield connection
    finally:
        await connection.close(timeout=settings.pool_connect_timeout)


async def look_at_schema(settings: Settings) -> SchemaState | None:
    """The state of the schema, without Alembic and without a lock; None when the database does not answer."""
    try:
        async with migrating_session(settings) as connection:
            return await schema_state(connection, settings.migrations)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None
