"""Repeating work that failed for no fault of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import asyncpg
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_any,
    wait_random_exponential,
)
from tenacity.stop import stop_base
from typing_extensions import override

from lifeguard.database.errors import DatabaseUnavailable
from lifeguard.database.scope import current_deadline
from lifeguard.pool import PoolConfig

T = TypeVar("T")

ATTEMPTS = 5
_MORE_THAN_ONE = 2

# 40001 and 40P01: nothing was written, and the same work may succeed the next time.
CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

# Seconds. Full jitter (Brooker, "Exponential backoff and jitter", AWS 2015): each pause is drawn from
# zero to a ceiling that doubles up to the highest. A conflict lasts as long as a transaction does, so
# the first ceiling is that of a few short ones.
_FIRST_CEILING = 0.02
_HIGHEST_CEILING = 0.5
# Between two questions to a server that takes no writes.
_UNTIL_WRITABLE = 0.2

_log = structlog.get_logger("lifeguard.database")


def is_repeatable(error: BaseException) -> bool:
    """Whether the error leaves nothing behind and may not come again: a conflict, a lost session, a server
    that has just become read-only (the pool leaves it for the writable one), a changed schema.

    Not CommitUnknown, and not the refusals of a pool or a breaker: the pool has waited already, and the
    breaker knows that the database is gone.
    """
    if isinstance(error, DatabaseUnavailable):
        return error.repeatable
    return isinstance(error, (*CONFLICTS, asyncpg.ReadOnlySQLTransactionError))


async def retry_idempotent(
    work: Callable[[], Awaitable[T]],
    *,
    attempts: int = ATTEMPTS,
    patience: float = PoolConfig.outage_patience,
) -> T:
    """The result of `work`, which is called up to `attempts` times: again after what `is_repeatable`, with
    full jitter, and not past the call's deadline. Raises the last error. While the server takes no writes it
    is called more often, for `patience` seconds: the pool looks for the one that does.

        async def read() -> list[Record]:
            async with database.read() as connection:
                return await connection.fetch(...)

        rows = await retry_idempotent(read)

    For reads, and for what does no harm when it is done twice: outside of a transaction it is not known
    whether a statement ran on a session that was lost. Each call has to borrow its own connection.
    """
    began = monotonic()
    try:
        return await work()  # nearly all of it: tenacity costs more than a statement does here
    except Exception as error:
        if attempts < _MORE_THAN_ONE or not is_repeatable(error):
            raise
        failed: Exception | None = error

    async def again() -> T:
        """Fail as before, at first: that attempt counts, and its error is looked at."""
        nonlocal failed
        if failed is not None:
            error, failed = failed, None
            raise error
        return await work()

    result: T = await retrying(attempts, max(0.0, patience - (monotonic() - began)))(again)
    return result


def retrying(attempts: int, patience: float = 0.0) -> AsyncRetrying:
    """Calls what it is given up to `attempts` times while its error `is_repeatable`; raises the last one.

    It stops earlier when the call's deadline would pass during the pause.
    """
    return AsyncRetrying(
        retry=retry_if_exception(is_repeatable),
        stop=stop_any(Enough(attempts, patience), TooLate()),
        wait=_pause,
        sleep=asyncio.sleep,
        before_sleep=_report,
        reraise=True,
    )


_full_jitter = wait_random_exponential(multiplier=_FIRST_CEILING, max=_HIGHEST_CEILING)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt."""
    longest = _UNTIL_WRITABLE if _is_read_only(state) else _HIGHEST_CEILING
    return min(_full_jitter(state), longest)


def _is_read_only(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, asyncpg.ReadOnlySQLTransactionError)


class Enough(stop_base):
    """It was tried often enough; where the server takes no writes, also for long enough."""

    def __init__(self, attempts: int, patience: float) -> None:
        self._attempts = attempts
        self._patience = patience

    @override
    def __call__(self, state: RetryCallState) -> bool:
        if state.attempt_number < self._attempts:
            return False
        waits = self._attempts > 1 and _is_read_only(state)
        return not waits or (state.seconds_since_start or 0.0) >= self._patience


class TooLate(stop_base):
    """The call's deadline would pass before the next attempt."""

    @override
    def __call__(self, state: RetryCallState) -> bool:
        deadline = current_deadline()
        if deadline is None:
            return False
        return asyncio.get_running_loop().time() + state.upcoming_sleep >= deadline


def _report(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    _log.info(
        "work_repeated",
        attempt=state.attempt_number,
        error=type(error).__name__,
        sqlstate=getattr(error, "sqlstate", None) or getattr(error and error.__cause__, "sqlstate", None),
        pause=round(state.upcoming_sleep, 4),
    )
