"""What can go wrong between this service and its databases, besides what asyncpg and the pool raise."""

from __future__ import annotations

import asyncpg

# Raised by asyncpg or sent by the server when a session has ended: 08*, 57P01-03, and 25P03, the end
# of those who idle in a transaction. Everything else that the server answers leaves the session alive.
SESSION_ENDED = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


class DatabaseUnavailable(Exception):
    """The session ended under the work, or none may be tried; `__cause__` says why.

    A transaction under way was rolled back. A statement outside of one may or may not have run.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which trying again is reasonable."""


class CommitUnknown(Exception):
    """COMMIT was sent and no answer came: the transaction exists or does not, and only the database
    knows. Repeat the work only if it can recognise that it was done (an idempotency key).

    `__cause__` is what came instead of the answer.
    """


class TransactionAborted(Exception):
    """The block ended well, but its transaction could not be committed.

    Mostly because a statement in it had failed and the error was swallowed, whereupon the server rolls
    everything back: wrap what may fail in `async with transaction.transaction():`.
    """


class DeadlineExceeded(TimeoutError):
    """The call's deadline passed before the statement could be sent; it did not run."""


class PoolOversized(Exception):
    """The pools of all instances together could ask for more sessions than the server has."""


class MigrationError(Exception):
    """The schema could not be brought up to date; the message is one line for whoever deploys."""
