"""What becomes of a borrower's call that failed: it is raised, or made once more where nobody can tell.

Three kinds are made again, each once:

- what was never sent, because the session had ended before: on another connection;
- BEGIN, and the first statement after it, if that was never sent: BEGIN first, on another connection;
- what failed for something that the connection had cached and that is no longer true (the schema has
  changed): on the same connection, which forgets what it has cached. The server refuses such a statement
  before it does anything. Inside a transaction the error has spoilt what was done before, so only the first
  statement is made again, and BEGIN with it.

Nothing is made again on another connection once the borrower has left traces on the one it had.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from app.pool import driver
from app.pool.connection import CLOSED_BY_BORROWER
from app.pool.errors import PoolError, StatementNotSent

if TYPE_CHECKING:
    from app.pool.circulation import Circulation
    from app.pool.connection import Begun, PooledConnection
    from app.pool.lease import Lease

# Where PostgreSQL's source raises what a stale cache leads to; its messages are translated, this is not.
_TYPE_IS_GONE = frozenset(["lookup_type_cache", "getTypeInputInfo", "getTypeBinaryInputInfo"])
_TYPE_HAS_OTHER_COLUMNS = "record_recv"
_LOOKUP_FAILED = "cache lookup failed for type"  # XX000: such messages are never translated
_MAY_COMMIT = ("CALL", "DO")  # before they fail


@dataclass(slots=True)
class Attempt:
    """What was known before a call that has failed."""

    query: str | None
    bore_traces: bool
    """The borrower had changed the session before this call."""
    executed: int | None = None
    """`driver.executed()`; None where the call is a cached statement and nothing else."""
    repeatable: bool = True
    """What it was given is still there: not an iterator that has been read."""
    sent: bool = False
    """It was surely sent."""
    harmless: bool = False
    """It changes nothing, so it does not matter whether it was sent: BEGIN."""


async def recover(
    circulation: Circulation, lease: Lease, pooled: PooledConnection, error: BaseException, attempt: Attempt
) -> PooledConnection | None:
    """The connection on which to make the call once more, or None: raise `error`.

    Raises StatementNotSent where that is what happened and it cannot be repeated.
    """
    circulation.note_failure(pooled, error)
    if not isinstance(error, Exception) or isinstance(error, TimeoutError):
        return None
    connection = pooled.connection
    lost = connection.is_closed() and pooled.retire_reason != CLOSED_BY_BORROWER
    unsent = lost and not attempt.sent and driver.never_sent(connection, error, attempt.executed)
    if unsent or (lost and attempt.harmless):
        replacement = None
        if attempt.repeatable and _is_replaceable(pooled, attempt):
            replacement = await _on_another(circulation, lease, pooled)
        if replacement is not None or not unsent:
            return replacement
        raise StatementNotSent(driver.NOT_SENT) from error
    if lost and driver.lost_its_place(connection, error):
        raise asyncpg.ConnectionDoesNotExistError("the server closed the connection") from error
    if not connection.is_closed() and _blames_a_cache(pooled, error, attempt):
        return await _in_place(circulation, pooled, error, attempt)
    return None


def _is_replaceable(pooled: PooledConnection, attempt: Attempt) -> bool:
    if attempt.bore_traces or pooled.busy > 1:
        return False
    if attempt.harmless or not driver.is_in_transaction(pooled.connection):
        return True
    return pooled.begun is not None and driver.executed(pooled.connection) == pooled.begun.executed


async def _on_another(
    circulation: Circulation, lease: Lease, dead: PooledConnection
) -> PooledConnection | None:
    """A connection in place of one that has ended, with the borrower's transaction begun on it again."""
    begun = dead.begun if driver.is_in_transaction(dead.connection) else None
    try:
        fresh = await circulation.replace(dead, lease)
        if begun is not None:
            await begun.again(fresh.connection)
            fresh.begun = begun._replace(executed=driver.executed(fresh.connection))
    except (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None  # the borrower is told of its own loss
    return fresh


def says_schema_changed(error: BaseException) -> bool:
    """Whether a statement failed because something that its connection had cached is no longer true. In a
    transaction everything is undone by that. Outside of one, a statement that ends in
    OutdatedSchemaCacheError has run; the others have not."""
    if isinstance(
        error,
        (
            asyncpg.InvalidCachedStatementError,
            asyncpg.InvalidSQLStatementNameError,
            asyncpg.OutdatedSchemaCacheError,
        ),
    ):
        return True
    if isinstance(error, asyncpg.InternalServerError):
        return str(error).startswith(_LOOKUP_FAILED)
    source = getattr(error, "server_source_function", None)
    if isinstance(error, asyncpg.UndefinedObjectError):
        return source in _TYPE_IS_GONE
    return isinstance(error, asyncpg.DatatypeMismatchError) and source == _TYPE_HAS_OTHER_COLUMNS


def _blames_a_cache(pooled: PooledConnection, error: Exception, attempt: Attempt) -> bool:
    """Whether the call may be made again for something that the connection had cached. Not after
    OutdatedSchemaCacheError: the statement had run, and only its answer could not be read."""
    if isinstance(error, asyncpg.OutdatedSchemaCacheError):
        return False
    if _is_about_an_argument(error):
        return attempt.query is not None and driver.takes_composites(pooled.connection, attempt.query)
    return says_schema_changed(error)


def _is_about_an_argument(error: Exception) -> bool:
    """asyncpg's own: an argument does not fit what it knows of the type. Nothing was sent."""
    return type(error) is asyncpg.DataError and getattr(error, "severity", None) is None


async def _in_place(
    circulation: Circulation, pooled: PooledConnection, error: Exception, attempt: Attempt
) -> PooledConnection | None:
    connection = pooled.connection
    unsent = _is_about_an_argument(error)
    if unsent or isinstance(error, asyncpg.InvalidSQLStatementNameError):
        driver.forget_caches(connection)
    else:
        circulation.schema_changed(pooled, error)
    if not attempt.repeatable or pooled.busy > 1 or _may_have_committed(attempt.query):
        return None
    if unsent:
        return pooled
    in_transaction = driver.is_in_transaction(connection)
    begun = pooled.begun if in_transaction else None
    if in_transaction and (begun is None or not _is_first(pooled, begun)):
        return None
    try:
        await driver.roll_back(connection, circulation.config.acquire_timeout)
        await circulation.connector.greet(connection)  # codecs that `init` has set are of the old types
        if begun is not None:
            await begun.again(connection)
            pooled.begun = begun._replace(executed=driver.executed(connection))
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None
    return pooled


def _is_first(pooled: PooledConnection, begun: Begun) -> bool:
    """Whether nothing was done in the transaction before the call that failed."""
    return driver.executed(pooled.connection) <= begun.executed + 1


def _may_have_committed(query: str | None) -> bool:
    return query is not None and query.lstrip()[:4].upper().startswith(_MAY_COMMIT)
