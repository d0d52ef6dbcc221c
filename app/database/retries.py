"""Repeating a transaction that the server ended for the sake of others."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    wait_random_exponential,
)
from tenacity.stop import stop_base
from typing_extensions import override

from app.database.scope import current_deadline

# 40001 and 40P01: nothing was written, and the same work may succeed the next time.
CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)

# Seconds. Full jitter (Brooker, "Exponential backoff and jitter", AWS 2015): each pause is drawn from
# zero to a ceiling that doubles up to the highest. A conflict lasts as long as a transaction does, so
# the first ceiling is that of a few short ones.
_FIRST_CEILING = 0.02
_HIGHEST_CEILING = 0.5

_log = structlog.get_logger("app.database")


def retrying(attempts: int) -> AsyncRetrying:
    """Calls what it is given up to `attempts` times while it raises CONFLICTS, and raises the last one.

    It stops earlier when the call's deadline would pass during the pause.
    """
    return AsyncRetrying(
        retry=retry_if_exception_type(CONFLICTS),
        stop=stop_any(stop_after_attempt(attempts), TooLate()),
        wait=wait_random_exponential(multiplier=_FIRST_CEILING, max=_HIGHEST_CEILING),
        sleep=asyncio.sleep,
        before_sleep=_report,
        reraise=True,
    )


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
        "transaction_repeated",
        attempt=state.attempt_number,
        sqlstate=getattr(error, "sqlstate", None),
        pause=round(state.upcoming_sleep, 4),
    )
