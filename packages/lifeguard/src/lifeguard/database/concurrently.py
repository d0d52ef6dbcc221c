"""`CONCURRENTLY` in a revision: it waits without a limit, and an index that a failed try left is rebuilt.

Such a statement blocks no reads and no writes while it waits for the transactions before it, so it needs no
lock timeout. If it is cancelled it leaves an invalid index: writes maintain it and no query uses it, and
`IF NOT EXISTS` would take it for the index.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import asyncpg
import structlog
from sqlalchemy import Connection, Engine, event

from lifeguard.database.catalog import INVALID_INDEXES

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_CONCURRENTLY = re.compile(
    r"\s*(CREATE\s+(UNIQUE\s+)?INDEX|DROP\s+INDEX|REINDEX\b.*|ALTER\s+TABLE\b.*)\s+CONCURRENTLY\b",
    re.IGNORECASE | re.DOTALL,
)
_NAME = r'(?:"(?:[^"]|"")+"|[\w$]+)'
_INDEX = re.compile(
    rf"\s*CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{_NAME})"
    rf"\s+ON\s+(?P<table>{_NAME}(?:\.{_NAME})?)",
    re.IGNORECASE,
)
_INVALID = """
SELECT format('%I.%I', nspname, relname)
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE NOT indisvalid AND indrelid = to_regclass($1) AND relname = (parse_ident($2))[1]
"""

_log = structlog.get_logger("lifeguard.database")


def prepare_concurrent_statements(engine: Engine, lock_timeout: int) -> None:
    """Do that on this engine; all other statements have a `lock_timeout`, in milliseconds."""

    def before(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if _is_concurrent(statement):
            _adapted(connection).run_async(partial(_make_way, statement=statement))

    def after(connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if _is_concurrent(statement):
            _adapted(connection).run_async(lambda asked: asked.execute(f"SET lock_timeout = {lock_timeout}"))

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)


async def name_invalid_indexes(connection: asyncpg.Connection) -> None:
    """Log the invalid indexes that are left: no revision will build these again."""
    for row in await connection.fetch(INVALID_INDEXES):
        remedy = "no revision builds it: DROP INDEX CONCURRENTLY, or REINDEX INDEX CONCURRENTLY"
        _log.warning("invalid_index", index=row["name"], remedy=remedy)


def _adapted(connection: Connection) -> Any:  # SQLAlchemy's `AdaptedConnection`, typed loosely by itself
    return connection.connection.dbapi_connection


def _is_concurrent(statement: str) -> bool:
    return _CONCURRENTLY.match(_COMMENT.sub("", statement)) is not None


async def _make_way(connection: asyncpg.Connection, statement: str) -> None:
    if connection.is_in_transaction():
        return  # the server will refuse it
    await connection.execute("SET lock_timeout = 0")
    if wanted := _INDEX.match(_COMMENT.sub("", statement)):
        invalid = await connection.fetchval(_INVALID, wanted["table"], wanted["name"])
        if invalid is not None:
            _log.warning("invalid_index", index=invalid, remedy="dropped, and built again")
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {invalid}")
