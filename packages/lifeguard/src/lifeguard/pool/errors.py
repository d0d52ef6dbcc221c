"""What the pool raises. Every `PoolError` carries the pool's statistics of that moment."""

from __future__ import annotations

import asyncpg

from lifeguard.pool.stats import PoolStats


class PoolError(Exception):
    """A connection could not be lent."""

    def __init__(self, message: str, stats: PoolStats) -> None:
        super().__init__(message)
        self.stats = stats

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[PoolError], arguments: tuple[object, ...], state: dict[str, object]) -> PoolError:
    """What pickle makes of an error; the constructors take more than their message."""
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error


class PoolTimeout(PoolError, TimeoutError):
    """The borrower waited for its whole budget."""

    def __init__(self, message: str, stats: PoolStats, *, stalled: bool) -> None:
        super().__init__(message, stats)
        self.stalled = stalled
        """No waiter got a connection in all that time: the database hangs, or every borrower does."""


class PoolSaturated(PoolError):
    """Turned away, so that those who already wait are served in time. Says nothing about the database."""

    def __init__(self, message: str, stats: PoolStats, *, reason: str, retry_after: float) -> None:
        super().__init__(message, stats)
        self.reason = reason
        self.retry_after = retry_after
        """Seconds after which trying again is reasonable."""


class PoolUnavailable(PoolError, ConnectionError):
    """There is no connection and none can be opened; `__cause__` is why the last attempt failed.

    A ConnectionError, for code that knows what `asyncpg.connect()` raises when no server answers.
    """

    def __init__(self, message: str, stats: PoolStats, *, retry_after: float) -> None:
        super().__init__(message, stats)
        self.retry_after = retry_after
        """Seconds until the pool itself tries again."""


class PoolClosing(PoolError, asyncpg.InterfaceError):
    """The pool is draining, closed or was never opened (an InterfaceError, as asyncpg.Pool raises)."""


class SessionStateRefused(asyncpg.InterfaceError):
    """A statement would leave something in its session, and a pooler gives each transaction another one. It
    was not sent; the message says what to do instead. Not a PoolError."""


class StatementNotSent(asyncpg.ConnectionDoesNotExistError):
    """The session had ended before the statement was sent: nothing of it has happened.

    Raised where the pool could not repeat it on another connection by itself: the borrower had changed its
    session, was in a transaction, or there is no other connection to be had. Not a PoolError.
    """
