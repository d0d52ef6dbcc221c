"""Errors of the database layer; those of asyncpg and of the pool pass through it as well."""

from __future__ import annotations

import asyncpg

# The server has ended a session whose borrower overstayed: 25P03 idle in a transaction, 25P04 the whole
# transaction, 57P05 idle outside of one. It says nothing about the database.
OVERSTAYED = (
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.IdleSessionTimeoutError,
)

# Raised by asyncpg or sent by the server when a session has ended: 08*, 57P01-03, and what is above.
# Everything else that the server answers leaves the session alive.
SESSION_ENDED = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    *OVERSTAYED,
)


class DatabaseUnavailable(Exception):
    """The session ended under the work, or none may be tried; `__cause__` says why.

    A transaction under way was rolled back. A statement outside of one may or may not have run.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0, repeatable: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which trying again is reasonable."""
        self.repeatable = repeatable
        """One session was lost, for no fault of the work: another may serve it at once."""


class WriteRefused(Exception):
    """A statement that writes was given to a ReadConnection. That is a mistake in the program: it writes
    where it said that it only reads, and perhaps to a replica. The primary and its breaker have nothing to do
    with it, and trying again does not help."""


class InvalidToken(ValueError):
    """A consistency token that this service has not made, or with a secret that it has no more."""


class SchemaChanged(DatabaseUnavailable):
    """The schema changed while the work was under way, and a statement no longer fits what its session
    knew of it. The transaction was rolled back; the same work may succeed at once."""

    def __init__(self, message: str) -> None:
        super().__init__(message, repeatable=True)


class CommitUnknown(Exception):
    """COMMIT was sent and not confirmed: the transaction exists or does not, and only the database
    knows. It may also exist on the primary alone, while that waits for a synchronous standby. Repeat the
    work only if it can recognise that it was done (an idempotency key).

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
    """The schema could not be brought up to date; the message is one line, for the deployment's log."""
