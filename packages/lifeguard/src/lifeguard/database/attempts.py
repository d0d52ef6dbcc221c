"""When work is repeated, and how often: tenacity, told of pauses, deadlines and read-only servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

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

from lifeguard.database.scope import current_deadline

# Seconds. Full jitter (Brooker, "Exponential backoff and jitter", AWS 2015): each pause is drawn from
# zero to a ceiling that doubles up to the highest. A conflict lasts as long as a transaction does, so
# the first ceiling is that of a few short ones.
_FIRST_CEILING = 0.02
_HIGHEST_CEILING = 0.5
# Between two questions to a server that takes no writes.
_UNTIL_WRITABLE = 0.2

_log = structlog.get_logger("lifeguard.database")


def retrying(attempts: int, patience: float, is_repeatable: Callable[[BaseException], bool]) -> AsyncRetrying:
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
