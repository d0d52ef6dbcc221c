"""One server session, and what the pool knows of it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable
from enum import Enum
from typing import Any, NamedTuple

import asyncpg

from lifeguard.pool import driver
from lifeguard.pool.callsite import Caller, CallSite
from lifeguard.pool.effects import Effect


class Status(Enum):
    """IDLE <-> IN_USE, IDLE <-> CHECKING, IN_USE -> RETURNING -> IDLE; from anywhere CLOSING."""

    IDLE = "idle"
    CHECKING = "checking"
    IN_USE = "in use"
    RETURNING = "returning"
    CLOSING = "closing"


CLOSED_BY_BORROWER = "closed_by_borrower"
"""A reason to retire a connection: its borrower has called `close()` or `terminate()` on it."""
COPY_BROKEN_OFF = "copy_broken_off"
"""A reason to retire a connection: driver and server no longer agree what is being said."""


class Begun(NamedTuple):
    """A transaction that the pool can begin again, as long as nothing was done in it."""

    again: Callable[[asyncpg.Connection], Awaitable[None]]
    executed: int
    """`driver.executed()` right after its BEGIN."""


class PooledConnection:
    """A session of the pool. Only the pool changes its status, always on the event loop.

    Times are monotonic seconds.
    """

    __slots__ = (
        "backend_pid",
        "begun",
        "borrowed_at",
        "busy",
        "call_site",
        "caller",
        "client_address",
        "connection",
        "doubts_writable",
        "effect",
        "expires_at",
        "failed",
        "generation",
        "has_unread",
        "heard_of_at",
        "idle_since",
        "lane",
        "loose",
        "needs_care",
        "opened_at",
        "outdated",
        "overdue",
        "place",
        "retire_reason",
        "sqlstate",
        "status",
        "task",
        "undo",
    )

    def __init__(
        self, connection: asyncpg.Connection, now: float, expires_at: float, generation: int
    ) -> None:
        self.connection = connection
        self.has_unread = driver.reading(connection)
        """Whether the server has said something that the event loop has not read yet."""
        self.generation = generation
        """Of the schema, when its caches were last forgotten: see `PoolState.generation`."""
        self.outdated = False
        """The schema has changed since: the caches are renewed before it is lent again."""
        # Asked now: asyncpg knows neither any more once the connection is cut.
        self.backend_pid = connection.get_server_pid()
        self.client_address = driver.client_address(connection)
        """`host:port` of this end; the server sees another one if something in between translates addresses.
        None over a Unix socket."""
        self.opened_at = now
        self.expires_at = expires_at
        """When its lifetime ends."""
        self.heard_of_at = now
        """When the server last answered on it."""
        self.idle_since = now
        """When it was last returned."""
        self.status = Status.IDLE
        self.retire_reason: str | None = None
        """Why it must not be lent again, once that is known."""
        self.sqlstate: str | None = None
        """Of the error with which the server ended it, if it has said so."""
        self.borrowed_at = now
        self.task: weakref.ref[asyncio.Task[object]] | None = None
        """The task that borrowed it; weak, because a lease must not keep its holder alive."""
        self.call_site: CallSite | None = None
        """Where it was borrowed."""
        self.caller: Caller | None = None
        """On whose behalf, if the borrower said so."""
        self.place: tuple[Hashable, int] | None = None
        """The lane and the rank that its borrower has named, if any."""
        # Any, because lanes are above this module.
        self.lane: Any = None
        """The `Lane` that holds it, in a pool with lanes; None if none does."""
        self.failed = False
        """A statement of the borrower's has run into a timeout, or lost the connection."""
        self.busy = 0
        """The borrower's calls under way."""
        self.forget_borrower()

    def forget_borrower(self) -> None:
        """Forget what the last borrower did, once it has been undone."""
        self.needs_care = self.retire_reason is not None or self.outdated
        """Something of this, or of what follows, is set: a plain return is not enough."""
        self.effect = Effect.NONE
        """The worst that the borrower's statements can have done to the session."""
        self.loose = False
        """It is not known what the server does: a call ended without an answer, or there are statements or
        cursors on it, whose calls `busy` does not count."""
        self.begun: Begun | None = None
        """The transaction under way, if it can be begun again."""
        self.doubts_writable = False
        """A statement was refused because the session is read-only."""
        self.overdue = False
        """Reported as held too long."""
        self.undo: list[Callable[[], None]] = []
        """How to undo each client-side registration of the borrower."""

    def changed_by(self, effect: Effect) -> None:
        if effect > self.effect:
            self.needs_care = True
            self.effect = effect

    def loosened(self) -> None:
        self.needs_care = True
        self.loose = True

    def refused_to_write(self) -> None:
        self.needs_care = True
        self.doubts_writable = True

    def retire(self, reason: str) -> None:
        """Close it when it comes back; the first reason stays."""
        self.needs_care = True
        if self.retire_reason is None:
            self.retire_reason = reason

    def grow_old(self) -> None:
        """Renew its caches before it is lent again."""
        self.needs_care = True
        self.outdated = True

    @property
    def bears_traces(self) -> bool:
        """The borrower has left something on it that another connection would not have."""
        return self.effect is not Effect.NONE or self.loose or bool(self.undo)

    def undo_on_return(self, undo: Callable[[], None]) -> None:
        self.needs_care = True
        self.undo.append(undo)
