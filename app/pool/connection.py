"""One server session and all the pool knows of it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from enum import Enum

import asyncpg

from app.pool.hygiene import Effect
from app.pool.places import Place


class Status(Enum):
    """IDLE <-> IN_USE, IDLE <-> CHECKING, IN_USE -> RETURNING -> IDLE; from anywhere CLOSING."""

    IDLE = "idle"
    CHECKING = "checking"
    IN_USE = "in use"
    RETURNING = "returning"
    CLOSING = "closing"


class PooledConnection:
    """A session of the pool. Only the pool moves it on, always on the event loop.

    Times are monotonic seconds.
    """

    __slots__ = (
        "backend_pid",
        "borrowed_at",
        "busy",
        "connection",
        "doubts_writable",
        "effect",
        "expires_at",
        "heard_of_at",
        "idle_since",
        "loose",
        "needs_care",
        "opened_at",
        "overdue",
        "place",
        "retire_reason",
        "status",
        "task",
        "undo",
    )

    def __init__(self, connection: asyncpg.Connection, now: float, expires_at: float) -> None:
        self.connection = connection
        self.backend_pid = connection.get_server_pid()  # asyncpg forgets it when the connection is cut
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
        self.borrowed_at = now
        self.task: weakref.ref[asyncio.Task[object]] | None = None
        """Who borrowed it; weak, for a lease must not keep its own holder alive."""
        self.place: Place | None = None
        """Where it was borrowed."""
        self.busy = 0
        """The borrower's calls under way."""
        self.forget_borrower()

    def forget_borrower(self) -> None:
        """Forget what the last borrower did, once it has been undone."""
        self.needs_care = self.retire_reason is not None
        """Something here or below is set: a plain return is not enough."""
        self.effect = Effect.NONE
        """The worst that the borrower's statements can have done to the session."""
        self.loose = False
        """A statement or cursor was made on it, whose calls `busy` does not count."""
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

    def undo_on_return(self, undo: Callable[[], None]) -> None:
        self.needs_care = True
        self.undo.append(undo)
