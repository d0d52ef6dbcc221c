"""Who waits for a connection and in which order, and who is told at once that waiting is no use.

First come, first served: a returned connection goes to the head of the queue, and nobody passes a live
waiter. A waiter that gives up costs O(1): its entry stays until its turn would have come.

Shedding. A queue that only grows serves borrowers that have left. So the queue measures its flow: how
many connections it has handed out since somebody last had to start waiting; a queue from which all have left
in vain remembers for a second that nothing came. It turns a newcomer away
when `length / flow`, the wait it would have, is above the target, or above its own budget. A waiter that was
admitted and has still waited for more than twice the target when its turn comes makes room for fresher ones:
it is turned away if somebody has asked within that time. So a burst that came together, and nobody after it,
is served whole. As many stay as there are connections that may come back in that moment: none of them goes
unused. When nothing flows at all nobody in the queue is turned away. They run into their deadlines, which
says that the trouble is the database, not the load. Those who wait while there is no server
(`lifeguard.pool.outage`) are a backlog: until it is served, or has had its time, nobody is turned away but
who would run into its deadline. The idea is CoDel's (Nichols and Jacobson, ACM Queue 10(5), 2012) as
Elixir's db_connection has it; the measured flow replaces its wait for a bad interval to pass.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from time import monotonic

from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.stats import Histogram

Waiter = asyncio.Future[PooledConnection]

# Seconds of flow that count.
_MEMORY = 1.0
# A waiter that has waited this many targets is stale when its turn comes.
STALE_AFTER_TARGETS = 2.0
# When the wait is below half the target, it cannot be above it within this part of a target: arrivals in
# the meantime need no estimate.
_CALM = 1 / 8
# Seconds: a timer may ring this much too early (uvloop's clock ticks in milliseconds).
_TIMER_SLACK = 0.001
# Entries of waiters that have left are cleared away when there are this many more of them than of waiters.
_CLUTTER = 100
_LONG_AGO = float("-inf")


class Total:
    """How many wait in all queues that share it, and whether they do so for want of a server."""

    __slots__ = ("_ends_at", "_rate", "stands", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.stands = False
        """There is no server, or was none a moment ago: the wait says nothing of the load."""
        self._rate = 0.0
        self._ends_at = 0.0

    def stand(self, rate: float, until: float = float("inf")) -> None:
        """There is no server, or it is not sure that there is one `until` then. The pool can serve so many a
        second afterwards. 0: that is not known."""
        self.stands = True
        self._rate = rate
        self._ends_at = until

    def shrink(self, until: float) -> None:
        """There is one again, or nobody waits for it any more. The backlog lasts until none waits, and not
        beyond `until`."""
        self._ends_at = until

    def lasts(self, now: float) -> bool:
        """Whether there is one still."""
        if self.stands and (now >= self._ends_at or (not self.waiting and self._ends_at < float("inf"))):
            self.stands = False
        return self.stands

    def wait(self, ahead: int) -> float:
        """Seconds that a newcomer waits once there is a server."""
        return (self.waiting + ahead) / self._rate if self._rate else 0.0


class WaitQueue:
    """Waiters in order of arrival. All times are monotonic seconds."""

    def __init__(
        self,
        target: float,
        waits: Histogram,
        *,
        time_out: Callable[[bool], Exception],
        turn_away: Callable[[], Exception],
        serving: Callable[[], int] = lambda: 1,
        total: Total | None = None,
    ) -> None:
        """`time_out(stalled)` makes the error of a waiter whose budget is used up, `turn_away` that of one
        that has become stale. `serving()` is how many connections may come back for it at the same time."""
        self._turn_away = turn_away
        self.target = target
        self._stale_after = target * STALE_AFTER_TARGETS or float("inf")
        self._serving = serving
        self.asked_at = float("-inf")
        """When the last newcomer came, also if it was told not to wait."""
        self.calm_until = 0.0
        self._note_wait = waits.observe
        self._time_out = time_out
        self._entries: deque[tuple[Waiter, float, float]] = deque()
        self.length = 0
        """How many waiters there are."""
        self._total = total or Total()
        self.create_future: Callable[[], Waiter]
        """The event loop's, once there is one."""
        self._flow_since = 0.0
        self._standing_since = 0.0
        self._handed_out: float = 0
        self._last_hand_out = 0.0
        self._given_up_at = _LONG_AGO
        """When the last waiter left without a connection; a queue that others have emptied starts anew."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")

    def oldest_wait(self, now: float) -> float:
        return next((now - joined_at for waiter, joined_at, _ in self._entries if not waiter.done()), 0.0)

    def standing(self, now: float) -> float:
        """Seconds since the queue was last empty; 0 while it is."""
        return now - self._standing_since if self.length else 0.0

    def expected_wait(self, now: float, serving: int, ahead: int = 0) -> float:
        """Seconds a newcomer would wait, by the flow so far, with `serving` connections for the queue.

        `ahead` more will be in front of it in the queue, if there is one. While none serves (the first
        connection is still being opened) nothing can be said: 0.

        Hand-outs come in bursts. So each connection counts as half way through what it does now, and, until
        it has had time to serve once, as if it had.
        """
        if not self.length or not serving:
            return 0.0
        elapsed = now - self._flow_since
        if elapsed > _MEMORY:
            self._handed_out *= _MEMORY / elapsed
            self._flow_since = now - _MEMORY
            elapsed = _MEMORY
        if not self._handed_out:
            return elapsed
        return (self.length + ahead) * elapsed / max(self._handed_out + serving / 2, serving)

    def objection(
        self, now: float, serving: int, budget: float, longest: int, *, ahead: int = 0
    ) -> str | None:
        """Why a newcomer with `budget` seconds should not wait, or None: it may join, after `ahead` others.

        Until `calm_until` nobody need ask whose budget is above the target, as long as the queue is shorter
        than `longest`.
        """
        self.asked_at = now
        if self.length + ahead >= longest:
            return "queue_full"
        if self._total.stands and self._total.lasts(now):
            return "deadline" if self._total.wait(ahead) > budget else None
        if not self.target:
            self.calm_until = float("inf")
            return None
        wait = self.expected_wait(now, serving, ahead)
        if wait > self.target:
            return "queue_target"
        if wait < self.target / 2:
            self.calm_until = now + self.target * _CALM
        return "deadline" if wait > budget else None

    def join(self, now: float, budget: float) -> Waiter:
        """A waiter at the end of the queue, for `budget` seconds."""
        length = self.length
        if not length:
            self._start_anew(now)
        self.asked_at = now
        waiter = self.create_future()
        deadline = now + budget
        self._entries.append((waiter, now, deadline))
        self.length = length + 1
        self._total.waiting += 1
        if deadline < self._alarm_at:
            self._set_alarm(deadline, now)
        return waiter

    def join_first(self, now: float, budget: float) -> Waiter:
        """A waiter at its head, for a borrower that has had its turn already and was given a connection that
        had ended."""
        waiter = self.join(now, budget)
        self._entries.rotate()
        return waiter

    def _start_anew(self, now: float) -> None:
        self._entries.clear()
        self._standing_since = now
        if now - self._given_up_at > _MEMORY:
            self._flow_since = now
            self._handed_out = 0

    def leave(self, waiter: Waiter) -> PooledConnection | None:
        """Give up waiting; the connection, if one was handed over in that very instant."""
        if waiter.done() and not waiter.cancelled():
            return waiter.result() if waiter.exception() is None else None
        waiter.cancel()
        self.length -= 1
        self._total.waiting -= 1
        if not self.length:
            self._given_up_at = monotonic()
        if len(self._entries) > 2 * self.length + _CLUTTER:
            self._entries = deque(entry for entry in self._entries if not entry[0].done())
        return None

    def hand_out(self, pooled: PooledConnection, now: float) -> bool:
        """Give a connection to the first live waiter that need not make room; False if there is none."""
        entries = self._entries
        while entries:
            waiter, joined_at, _ = entries.popleft()
            if waiter.done():
                continue
            self.length -= 1
            self._total.waiting -= 1
            waited = now - joined_at
            if waited > self._stale_after and self._has_fresher(now) and not self._total.lasts(now):
                waiter.set_exception(self._turn_away())
                continue
            self._handed_out += 1
            self._last_hand_out = now
            self._given_up_at = _LONG_AGO
            self._note_wait(waited)
            waiter.set_result(pooled)
            return True
        return False

    def _has_fresher(self, now: float) -> bool:
        """Whether a stale waiter, which is not counted any more, makes room for somebody."""
        return now - self.asked_at <= self._stale_after and self.length >= self._serving()

    def refuse_all(self, error: Callable[[], Exception]) -> int:
        """Empty the queue: every waiter gets an error of its own. Returns how many there were."""
        entries, self._entries = self._entries, deque()
        refused = 0
        for waiter, _, _ in entries:
            if not waiter.done():
                self.length -= 1
                self._total.waiting -= 1
                waiter.set_exception(error())
                refused += 1
        return refused

    def _set_alarm(self, at: float, now: float) -> None:
        """One timer for all: one for each waiter would cost more than the rest of the wait."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().call_later(at - now, self._ring, context=Context())

    def _ring(self) -> None:
        self._alarm, self._alarm_at = None, float("inf")
        now = monotonic()
        nearest = float("inf")
        staying: deque[tuple[Waiter, float, float]] = deque()
        for waiter, joined_at, deadline in self._entries:
            if waiter.done():
                continue
            if deadline <= now + _TIMER_SLACK:
                self.length -= 1
                self._total.waiting -= 1
                waiter.set_exception(self._time_out(self._last_hand_out < joined_at))
            else:
                staying.append((waiter, joined_at, deadline))
                nearest = min(nearest, deadline)
        self._entries = staying
        if not self.length:
            self._given_up_at = now
        if nearest < float("inf"):
            self._set_alarm(nearest, now)
