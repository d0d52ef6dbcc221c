"""Prepared statements and types that asyncpg keeps: the short way to run one, and how to forget them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import asyncpg

from lifeguard.pool.driver.poolers import ThroughPooler
from lifeguard.pool.driver.sessions import Session

_PLAIN: Any = frozenset((asyncpg.Connection, ThroughPooler))


def run_at_hand(
    connection: Session, query: str, args: tuple[object, ...], limit: int, timeout: float | None
) -> Awaitable[list[asyncpg.Record]] | None:
    """Run the prepared statement that asyncpg keeps for `query`, if that can be done the short way; else
    None. At most `limit` rows, 0 for all.

    asyncpg reaches a cached statement through five coroutines, which cost a small query a sixth of its
    time. The short way is `_protocol.bind_execute` at once. None, for the long way, when the statement is
    yet to be prepared, the query is to be logged, or a `connection_class` may do things differently
    (`_stmt_cache`, its `_entries` and the `_statement` of each, `_query_loggers`).

    Raises as `Connection.fetch()`, besides InvalidCachedStatementError and OutdatedSchemaCacheError: then
    `forget_caches()`.
    """
    # One function: it runs for nearly every statement.
    if connection._aborted or connection._query_loggers or connection.__class__ not in _PLAIN:
        return None
    protocol = connection._protocol
    entries = connection._stmt_cache._entries
    entry = entries.get(key := (query, protocol.get_record_class(), False))
    if entry is None or (statement := entry._statement).closed:
        return None
    entries.move_to_end(key)  # the last one used is the last to be forgotten
    if timeout is not None:  # else the connection's command_timeout is taken there
        timeout = protocol._get_timeout(timeout)
    rows: Awaitable[list[asyncpg.Record]] = protocol.bind_execute(statement, args, "", limit, False, timeout)
    return rows


def _cached(connection: Session, query: str) -> Any:
    return connection._stmt_cache.get((query, connection._protocol.get_record_class(), False))


def forget_caches(connection: Session) -> None:
    """Forget prepared statements and types: they are read again when they are needed, and the server is told
    with the next new statement (`_drop_local_statement_cache`, `_drop_local_type_cache`)."""
    if connection._protocol is None:  # it was cut
        return
    connection._drop_local_statement_cache()
    connection._drop_local_type_cache()


async def close_forgotten_statements(connection: Session) -> None:
    """Have the server forget them now (`_cleanup_stmts`); asyncpg gives this no timeout."""
    await connection._cleanup_stmts()


def parameters(connection: Session, query: str) -> list[tuple[int, str]] | None:
    """Oid and kind of each argument of the prepared statement for `query`, as asyncpg believes
    (`_get_parameters`); None when it keeps none."""
    statement = _cached(connection, query)
    return None if statement is None else _types(statement)


async def ask_parameters(connection: Session, query: str, timeout: float | None) -> list[tuple[int, str]]:
    """The same as the server sees it now (`_get_statement`); what is cached stays as it is."""
    return _types(await connection._get_statement(query, timeout, use_cache=False))


def _types(statement: Any) -> list[tuple[int, str]]:
    return [(kind.oid, kind.kind) for kind in statement._get_parameters()]


def is_unresolved(error: Exception) -> bool:
    """Whether asyncpg did not find types because they were made anew meanwhile: nothing was sent."""
    return isinstance(error, asyncpg.InternalClientError) and "could not resolve query result" in str(error)


def is_cached(connection: Session, query: str) -> bool:
    """Whether asyncpg keeps a prepared statement for `query`."""
    return connection._protocol is not None and _cached(connection, query) is not None
