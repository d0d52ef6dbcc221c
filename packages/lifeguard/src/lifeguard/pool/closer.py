"""Which connections go, and why; which of the others are no longer trusted. Decisions; I/O is a task."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextvars import Context
from functools import partial
from time import monotonic

from lifeguard.pool import driver
from lifeguard.pool.connection import CLOSED_BY_BORROWER, COPY_BROKEN_OFF, PooledConnection, Status
from lifeguard.pool.events import Reporter
from lifeguard.pool.state import Phase, PoolState
from lifeguard.pool.tasks import CloseConnection, Tasks

# Seconds: connections lost within this time of each other are one incident, and one event.
_SAME_INCIDENT = 1.0
# A part of the lifetime: connections opened together do not all reach it together.
_LIFETIME_JITTER = 0.1
# Retired for one of these, the end of a connection says nothing about the others.
ENDED_HERE = frozenset([CLOSED_BY_BORROWER, COPY_BROKEN_OFF])
# SQLSTATEs of a server that ends a single session, for idling in a transaction or at all, or for a long
# transaction.
_OVERSTAYED = frozenset(("25P03", "25P04", "57P05"))
# Idle ones are closed first, those in use last.
_CLOSING_ORDER = {Status.IDLE: 0, Status.IN_USE: 2}


class Closer:
    """Takes connections out of the pool and sees them off."""

    def __init__(
        self, state: PoolState, tasks: Tasks, report: Reporter, *, when_closed: Callable[[], None]
    ) -> None:
        """`when_closed` is called after each: there is room for another one."""
        self._state = state
        self._tasks = tasks
        self._report = report
        self._when_closed = when_closed

    # -- one connection ----------------------------------------------------------------------------

    def objection_to(self, pooled: PooledConnection, now: float) -> str | None:
        """Why the connection must not be lent again, or None."""
        if pooled.retire_reason is not None:
            return pooled.retire_reason
        if pooled.connection.is_closed():
            return "lost"
        return "lifetime" if now >= pooled.expires_at and self._state.read_only_since is None else None

    def lifetime(self) -> float:
        """Seconds that a new connection may live."""
        longest = self._state.config.max_lifetime
        if not longest:
            return float("inf")
        return longest * (1 - random.uniform(0, _LIFETIME_JITTER))  # noqa: S311 - jitter, not a secret

    def discard(self, pooled: PooledConnection, reason: str) -> None:
        """Close a connection, and have another one opened in its place if one is wanted."""
        if pooled.status is Status.CLOSING:
            return
        state = self._state
        if pooled.status is Status.IDLE and pooled in state.idle:
            state.idle.remove(pooled)
        pooled.status = Status.CLOSING
        state.members.discard(pooled)
        if not state.members:
            state.outage.left_alone()
        state.closing.add(pooled)
        if state.has_lanes:
            state.lanes.give_back(pooled, monotonic(), succeeded=False)
        state.tally.closed[reason] += 1
        gone = partial(self._gone, pooled, reason)
        if not pooled.connection.is_closed():
            self._tasks.start(CloseConnection(pooled, gone))
        elif state.loop is not None and not state.loop.is_closed():
            # Not now: the caller may be in the middle of something.
            state.loop.call_soon(gone, context=Context())

    def broken_off(self, pooled: PooledConnection) -> None:
        """The task that had the connection was broken off: it is not known what state the session is in."""
        self._state.checking.discard(pooled)
        if pooled.status is not Status.CLOSING:
            pooled.connection.terminate()
            self.discard(pooled, "broken_off")

    def _gone(self, pooled: PooledConnection, reason: str) -> None:
        """Its session no longer counts. Cuts the connection if its goodbye was broken off."""
        closing = self._state.closing
        if pooled not in closing:
            return
        closing.discard(pooled)
        if not pooled.connection.is_closed():
            pooled.connection.terminate()
        age = monotonic() - pooled.opened_at
        self._report("debug", "connection_closed", about=pooled, reason=reason, age=age)
        self._when_closed()
        self.note_progress()

    # -- several -----------------------------------------------------------------------------------

    def retire(self, members: Iterable[PooledConnection], reason: str) -> None:
        """Close these: idle ones at once, the rest when they come back."""
        for pooled in members:
            pooled.retire(reason)
            if pooled.status is Status.IDLE:
                self.discard(pooled, reason)

    def expire(self, why: str) -> None:
        """Replace every connection opened until now: idle ones at once, the rest when they come back."""
        self._report("info", "connections_expired", why=why)
        self.retire(tuple(self._state.members), "expired")

    def coldest(self) -> list[PooledConnection]:
        """Those not on their way out already, in the order in which to close them: idle ones, longest idle
        first; those in use last."""
        staying = [pooled for pooled in self._state.members if pooled.retire_reason is None]
        staying.sort(key=lambda pooled: (_CLOSING_ORDER.get(pooled.status, 1), pooled.idle_since))
        return staying

    def surplus(self) -> list[PooledConnection]:
        """Those to close for there to be no more than the maximum."""
        staying = self.coldest()
        return staying[: max(len(staying) - self._state.config.max_size, 0)]

    def note_progress(self) -> None:
        """While draining: close idle connections once no waiter is left, and notice when nothing is left."""
        state = self._state
        if state.phase is not Phase.DRAINING or state.total.waiting:
            return
        for pooled in tuple(state.idle):
            self.discard(pooled, "pool_closing")
        if not (state.members or state.closing):
            state.settled.set()

    def cut_off(self) -> None:
        """Cut every connection, without waiting for anything. Works without a running loop, too."""
        for pooled in (*self._state.members, *self._state.closing):
            driver.cut(pooled.connection)
            self.discard(pooled, "cut_off")
        for pooled in tuple(self._state.closing):
            self._gone(pooled, "cut_off")

    # -- sessions that have ended ------------------------------------------------------------------

    def lost(self, pooled: PooledConnection, _: object) -> None:
        """The driver says that the session has ended."""
        if pooled.status is Status.CLOSING:
            return
        pooled.retire("lost")
        if pooled.status in {Status.IDLE, Status.IN_USE}:  # else the task that uses it notices
            self.take_out(pooled)
        else:
            self._suspect_others(pooled)

    def take_out(self, dead: PooledConnection) -> None:
        """Discard one whose session has ended."""
        self._suspect_others(dead)
        reason = dead.retire_reason
        self.discard(dead, reason if reason in ENDED_HERE else "lost")

    def _suspect_others(self, dead: PooledConnection) -> None:
        """Suspect the others, unless the end of this one says nothing about them: it was closed on this side,
        or the server has ended it alone and said so in the answer to a call."""
        dead.sqlstate = dead.sqlstate or driver.last_words(dead.connection)
        if dead.retire_reason not in ENDED_HERE and dead.sqlstate not in _OVERSTAYED:
            self.suspect_all("connection_lost", about=dead)

    def suspect_all(self, why: str, *, about: PooledConnection, error: BaseException | None = None) -> None:
        """Have every connection checked before it is lent, unless the server answers on it after now; `about`
        is the one that gave cause."""
        state = self._state

        def tell() -> None:
            self._report("info", "connections_suspect", why=why, about=about, error=error)

        now = monotonic()
        if now - state.suspect_since > _SAME_INCIDENT:
            if error is None and about.busy and state.loop is not None:
                state.loop.call_soon(tell)  # its borrower's call is about to raise what the server said
            else:
                tell()
        state.suspect_since = now

    # -- a server that takes no writes -------------------------------------------------------------

    def note_read_only(self, pooled: PooledConnection) -> None:
        """The server takes no writes, and the pool asks for one that does.

        One that does is looked for: attempts at a new connection, one at a time and ever more rarely, each of
        which asks. The present connections go on reading until one succeeds, then all are replaced.
        """
        self._state.read_only_since = monotonic()
        self._report("warning", "server_read_only", about=pooled)
        self.make_room_to_look()

    def make_room_to_look(self) -> None:
        """Close one connection if the attempts to find a writable server need its room."""
        state = self._state
        looking = state.read_only_since is not None and state.phase is Phase.OPEN
        coming = state.closing or state.opening
        if not looking or coming or state.sessions < state.config.max_size:
            return
        if state.idle or not any(pooled.retire_reason for pooled in state.members):
            self.retire(self.coldest()[:1], "read_only")
