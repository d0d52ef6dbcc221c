"""What becomes of a borrower's call that failed, and what the pool learns from it. The error is raised, or
the call is made once more where nobody can tell the difference.

Four kinds of calls are made again, each once:

- one that was never sent, because the session had ended before: on another connection;
- one of a borrower that has promised to read only, sent or not: on another connection, unless it took long;
- BEGIN, and the first statement after it, if that was never sent: BEGIN first, on another connection;
- one that failed because of something that the connection had cached and that is no longer true (the schema
  has changed): on the same connection, which forgets what it has cached. The server refuses such a statement
  before it does anything. What it says of a statement inside a function or procedure does not count.
  In a transaction the error has undone what was done before, so only the first statement is made again,
  and BEGIN with it.

Nothing is made again on another connection once the borrower has changed the session that it had.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

import asyncpg

from lifeguard.pool import driver
from lifeguard.pool.closer import ENDED_HERE
from lifeguard.pool.connection import CLOSED_BY_BORROWER, Begun, PooledConnection
from lifeguard.pool.errors import PoolError, StatementNotSent
from lifeguard.pool.faults import is_fatal, sqlstate_of
from lifeguard.pool.lending import Lending

Replace = Callable[[PooledConnection, float | None], Awaitable[PooledConnection]]
"""Gives the lease another connection in place of one that has ended, within so many seconds."""

# SQLSTATEs of a server that ends its sessions (admin shutdown, crash, not accepting connections).
_SERVER_GONE = frozenset(("57P01", "57P02", "57P03"))
_READ_ONLY = "25006"
# SQLSTATEs of a lock that was not to be had, and of a statement that was cancelled, by its timeout say.
_TIMED_OUT = frozenset(("55P03", "57014"))
# Where PostgreSQL's source raises what a stale cache leads to; its messages are translated, this is not.
_TYPE_IS_GONE = frozenset(["lookup_type_cache", "getTypeInputInfo", "getTypeBinaryInputInfo"])
_TYPE_HAS_OTHER_COLUMNS = "record_recv"
_LOOKUP_FAILED = "cache lookup failed for type"  # XX000: such messages are never translated
# What a prepared statement can become when it is analysed again: its columns, or their types, are others.
_NO_LONGER_FITS = (
    asyncpg.CannotCoerceError,
    asyncpg.DatatypeMismatchError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedTableError,
)
# The context of an error in an argument, in any language: "unnamed portal parameter $1". Functions have
# other ones.
_OF_AN_ARGUMENT = re.compile(r'[^"\n]*\$\d+[^"\n]*')
# The session knows which sequence the borrower used last, or the borrower believes so.
_ASKS_THE_SESSION = re.compile(r"\b(?:curr|last)val\b", re.IGNORECASE)


@dataclass(slots=True)
class Attempt:
    """What was known before a call that has failed."""

    query: str | None
    bore_traces: bool
    """The borrower had changed the session before this call."""
    executed: int | None = None
    """`driver.executed()`; None where the call is a cached statement and nothing else."""
    cached: bool = False
    """It was a prepared statement from the cache, and nothing else."""
    many: bool = False
    """It has several rows of arguments."""
    timeout: float | None = None
    """Seconds for the call."""
    repeatable: bool = True
    """What it was given is still there: not an iterator that has been read."""
    sent: bool = False
    """It was surely sent."""
    harmless: bool = False
    """It changes nothing, so it does not matter whether it was sent. That is BEGIN."""
    read: bool = False
    """The same, by its borrower's word; and it may take long."""


class ReadOnce:
    """Arguments from an iterator. asyncpg repeats a statement whose plan has become invalid with those that
    are left. Here that raises, because the others would be lost."""

    def __init__(self, args: Iterable[Sequence[object]]) -> None:
        self._args: Iterable[Sequence[object]] | None = args

    def __iter__(self) -> Iterator[Sequence[object]]:
        args, self._args = self._args, None
        if args is None:
            raise asyncpg.InvalidCachedStatementError("the schema has changed; the arguments have been read")
        return iter(args)


def readable(args: Iterable[Sequence[object]]) -> Iterable[Sequence[object]]:
    """Arguments of several rows: as they are if they can be read twice."""
    return args if isinstance(args, (list, tuple)) else ReadOnce(args)


async def recover(
    lending: Lending,
    pooled: PooledConnection,
    error: BaseException,
    attempt: Attempt,
    replace: Replace,
) -> PooledConnection | None:
    """The connection on which to make the call once more, or None: raise `error`.

    Raises StatementNotSent where that is what happened and it cannot be repeated.
    """
    note_failure(lending, pooled, error)
    if not isinstance(error, Exception) or isinstance(error, TimeoutError):
        return None
    connection = pooled.connection
    lost = connection.is_closed() and pooled.retire_reason != CLOSED_BY_BORROWER
    unsent = lost and not attempt.sent and driver.never_sent(connection, error, attempt.executed)
    if unsent or (lost and (attempt.harmless or (attempt.read and _was_short(lending, pooled)))):
        replacement = None
        if attempt.repeatable and _is_replaceable(pooled, attempt):
            replacement = await _on_another(pooled, attempt, replace)
        if replacement is not None or not unsent:
            return replacement
        raise StatementNotSent(driver.NOT_SENT) from error
    if lost and driver.lost_its_place(connection, error):
        raise asyncpg.ConnectionDoesNotExistError("the server closed the connection") from error
    if not connection.is_closed() and await _blames_a_cache(pooled, error, attempt):
        return await _in_place(lending, pooled, error, attempt)
    return None


# -- what the pool learns from it ------------------------------------------------------------------


def note_failure(lending: Lending, pooled: PooledConnection, error: BaseException) -> None:
    """Learn from what a borrower's call raised."""
    if _took_too_long(error):
        pooled.failed = True
    if getattr(error, "severity", None) is None:
        # Not the server's answer: broken off by a cancel or a timeout, or an error on this side. Whether
        # the session can go on is tried before anybody else gets it. That also ends the transaction in
        # which a statement has been prepared that was not run after all.
        pooled.loosened()
        driver.drop_cancel_once_answered(pooled.connection)
    code = sqlstate_of(error) or ""
    if code in _SERVER_GONE or code.startswith("08"):
        if not (pooled.connection.is_closed() or is_fatal(error)):
            # Of another server (dblink, a foreign table), of a pooler, or RAISEd: this session goes on.
            pooled.loosened()
            return
        pooled.retire("server_gone")
        if pooled.retire_reason not in ENDED_HERE:
            pooled.sqlstate = code
            lending.closer.suspect_all("server_gone", about=pooled, error=error)
            lending.state.outage.looms()
    elif code == _READ_ONLY:
        pooled.refused_to_write()
    elif isinstance(error, asyncpg.OutdatedSchemaCacheError):
        schema_changed(lending, pooled, error)


def _took_too_long(error: BaseException) -> bool:
    """Whether the borrower did not get what it asked for in time, or lost the connection."""
    if isinstance(error, (OSError, asyncio.CancelledError)):  # TimeoutError is an OSError
        return True
    code = sqlstate_of(error) or ""
    return code in _TIMED_OUT or code in _SERVER_GONE or code.startswith("08")


def schema_changed(lending: Lending, pooled: PooledConnection, error: Exception | None = None) -> None:
    """Something that the connection had cached is no longer true. The first connection that finds out begins
    a new generation: every connection forgets what it has cached, those in use too, and renews it before it
    is lent again. What one of an older generation finds is no news."""
    state = lending.state
    if pooled.generation != state.generation:
        driver.forget_caches(pooled.connection)
        pooled.generation = state.generation
        return
    state.generation += 1
    pooled.generation = state.generation
    if driver.is_through_pooler(pooled.connection):
        driver.renew_texts()
    lending.report("info", "schema_changed", about=pooled, error=error, generation=state.generation)
    for member in state.members:
        driver.forget_caches(member.connection)
        if not member.busy:  # else a statement is under way that knows the old one
            member.generation = state.generation
        member.grow_old()
    for idle in tuple(state.idle):
        lending.probe(idle)


# -- on another connection -------------------------------------------------------------------------


def _was_short(lending: Lending, pooled: PooledConnection) -> bool:
    """Whether the borrower has had no answer for so short a time that nobody can have ended its session for
    that, as for a statement that holds others up: it would only begin again."""
    patience = lending.state.config.outage_patience
    return monotonic() - max(pooled.borrowed_at, pooled.heard_of_at) < patience


def _is_replaceable(pooled: PooledConnection, attempt: Attempt) -> bool:
    if attempt.bore_traces or pooled.busy > 1:
        return False
    if attempt.query is not None and _ASKS_THE_SESSION.search(attempt.query):
        return False
    if attempt.harmless or not driver.is_in_transaction(pooled.connection):
        return True
    return pooled.begun is not None and driver.executed(pooled.connection) == pooled.begun.executed


async def _on_another(dead: PooledConnection, attempt: Attempt, replace: Replace) -> PooledConnection | None:
    """A connection in place of one that has ended, with the borrower's transaction begun on it again."""
    begun = dead.begun if driver.is_in_transaction(dead.connection) else None
    try:
        fresh = await replace(dead, attempt.timeout)
    except (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None  # the borrower is told that its own connection was lost
    return fresh if begun is None or await _begun_again(fresh, begun) else None


async def _begun_again(pooled: PooledConnection, begun: Begun) -> bool:
    """Begin the transaction again. If that fails the session is cut: the borrower's next statement must not
    be committed by itself."""
    try:
        await begun.again(pooled.connection)
    except BaseException as failure:
        pooled.connection.terminate()
        if isinstance(failure, Exception):
            return False
        raise
    pooled.begun = begun._replace(executed=driver.executed(pooled.connection))
    return True


# -- on the same connection ------------------------------------------------------------------------


def says_schema_changed(error: BaseException) -> bool:
    """Whether a statement failed because something that its connection had cached is no longer true. In a
    transaction that undoes everything. Outside of one, a statement that ends in OutdatedSchemaCacheError has
    run; the others have not."""
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
    if isinstance(error, asyncpg.InternalClientError):
        return driver.is_unresolved(error)
    source = getattr(error, "server_source_function", None)
    if isinstance(error, asyncpg.UndefinedObjectError):
        return source in _TYPE_IS_GONE
    return isinstance(error, asyncpg.DatatypeMismatchError) and source == _TYPE_HAS_OTHER_COLUMNS


async def _blames_a_cache(pooled: PooledConnection, error: Exception, attempt: Attempt) -> bool:
    """Whether the call may be made again for something that the connection had cached. Not after
    OutdatedSchemaCacheError: the statement had run, and only its answer could not be read."""
    if _is_about_an_argument(error):
        return not attempt.many and await _takes_other_arguments(pooled, attempt)
    if driver.is_unresolved(error):
        return True
    context = getattr(error, "context", None)
    of_pooler = driver.is_through_pooler(pooled.connection) and says_schema_changed(error)
    if not (attempt.cached or of_pooler) or not (context is None or _OF_AN_ARGUMENT.fullmatch(context)):
        return False
    if isinstance(error, asyncpg.OutdatedSchemaCacheError):
        return False
    return isinstance(error, _NO_LONGER_FITS) or says_schema_changed(error)


def _is_about_an_argument(error: Exception) -> bool:
    """asyncpg's own error: an argument does not fit what it knows of the type. The statement was not sent."""
    return type(error) is asyncpg.DataError and getattr(error, "severity", None) is None


async def _takes_other_arguments(pooled: PooledConnection, attempt: Attempt) -> bool:
    """Whether the statement's arguments may be of other types by now than asyncpg believes."""
    connection = pooled.connection
    if attempt.query is None:
        return False
    known = driver.parameters(connection, attempt.query)
    if known is not None and any(kind in _MADE_OF_OTHERS for _, kind in known):
        return True
    if driver.is_in_transaction(connection):  # which a failing question would abort
        return False
    try:
        now = await driver.ask_parameters(connection, attempt.query, attempt.timeout)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False
    return now != known if known is not None else any(kind in _MADE_OF_OTHERS for _, kind in now)


_MADE_OF_OTHERS = frozenset(["composite", "array", "range"])
"""Kinds of types that may change without becoming another type."""


async def _in_place(
    lending: Lending, pooled: PooledConnection, error: Exception, attempt: Attempt
) -> PooledConnection | None:
    connection = pooled.connection
    if says_schema_changed(error) and not isinstance(error, asyncpg.InvalidSQLStatementNameError):
        schema_changed(lending, pooled, error)
    else:
        driver.forget_caches(connection)
    if not attempt.repeatable or pooled.busy > 1:
        return None
    if _is_about_an_argument(error):
        return pooled
    begun = pooled.begun if driver.is_in_transaction(connection) else None
    if driver.is_in_transaction(connection) and (begun is None or not _is_first(pooled, begun)):
        return None
    return pooled if await _made_fit(lending, pooled, begun) else None


async def _made_fit(lending: Lending, pooled: PooledConnection, begun: Begun | None) -> bool:
    """Roll back, and let `init` set the codecs of the new types, unless that would undo what the borrower or
    `setup` has set."""
    connection = pooled.connection
    try:
        await driver.roll_back(connection, lending.state.config.acquire_timeout)
        if not (pooled.bears_traces or lending.state.has_setup):
            await lending.connector.greet(connection)
    except BaseException as failure:
        connection.terminate()
        if isinstance(failure, Exception):
            return False
        raise
    return begun is None or await _begun_again(pooled, begun)


def _is_first(pooled: PooledConnection, begun: Begun) -> bool:
    """Whether nothing was done in the transaction before the call that failed."""
    return driver.executed(pooled.connection) <= begun.executed + 1
