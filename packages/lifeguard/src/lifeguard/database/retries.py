"""Repeating work that failed for no fault of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import asyncpg

from lifeguard.database.errors import DatabaseUnavailable
from lifeguard.pool import PoolConfig

T = TypeVar("T")

ATTEMPTS = 5
_SEVERAL = 2

# 40001 and 40P01: nothing was written, and the same work may succeed the next time.
CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)


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
        return await work()  # nearly all of it; only what has failed needs tenacity
    except Exception as error:
        if attempts < _SEVERAL or not is_repeatable(error):
            raise
        failed: Exception | None = error

    async def again() -> T:
        """Fail as before, at first: that attempt counts, and its error is looked at."""
        nonlocal failed
        if failed is not None:
            error, failed = failed, None
            raise error
        return await work()

    # With its library, which only a failure needs.
    from lifeguard.database.attempts import retrying  # noqa: PLC0415

    left = max(0.0, patience - (monotonic() - began))
    result: T = await retrying(attempts, left, is_repeatable)(again)
    return result
