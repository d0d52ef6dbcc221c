"""What one pool knows: its connections by status, its waiters, its counters. It decides nothing: what it does
is count, and put the numbers of the moment into statistics and into the errors of those it cannot serve.

Everything runs on one event loop, and every decision is made without suspending, so there are no locks:
between two `await`s the numbers add up. Who writes what:

    Pool       phase, loop, done, suspended, the settings, first_size
    Lending    held, idle, checking, queue, lanes, holders
    Opener     members (adds), opening, retry_at, last_error, outage; ends first_size and read_only_since
    Closer     members, idle, checking (take out), closing, suspect_since, read_only_since, outage, settled
    recovery   generation

What happens is counted in `tally` where it happens.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import partial
from itertools import islice
from time import monotonic
from typing import cast

import asyncpg

from lifeguard.pool.config import PoolConfig
from lifeguard.pool.connection import PooledConnection, Status
from lifeguard.pool.errors import PoolClosing, PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.pool.faults import NO_WRITABLE_SERVER, describe_error, fault_of
from lifeguard.pool.lane import NORMAL, Lane
from lifeguard.pool.lane_stats import LaneSheds, lane_stats
from lifeguard.pool.lanes import Lanes
from lifeguard.pool.outage import Outage
from lifeguard.pool.queue import Total, WaitQueue
from lifeguard.pool.stats import LaneStats, PoolStats, Tally

# A look at the oldest waiter of all lanes would take long when there are thousands: so many are looked at.
_ENOUGH_LANES = 100

Holder = weakref.ref[asyncio.Task[object]]

_SHED_BECAUSE = {
    "queue_full": "shed: the queue is full",
    "queue_target": "shed: the wait would exceed queue_target",
    "deadline": "shed: the wait would exceed its own timeout",
    "stale": "shed: it has waited for more than twice queue_target",
    "lane_breaker": "shed: what its lane holds does not come back",
}
"""What the error says, by the reasons of `PoolSaturated`."""


class Phase(Enum):
    """Of a pool's life; the value completes "the pool ..."."""

    NEW = "is not open"
    OPEN = "is open"
    DRAINING = "is draining"
    CLOSED = "is closed"


class _LoopOfTheParent:
    """Stands for the event loop of the process that this one was forked from: nothing runs on it here."""

    def is_closed(self) -> bool:
        return True

    def is_running(self) -> bool:
        return False


_OF_THE_PARENT = cast("asyncio.AbstractEventLoop", _LoopOfTheParent())


class PoolState:
    """The state of one pool. Times are monotonic seconds."""

    __slots__ = (
        "__weakref__",
        "acquire_timeout",
        "checking",
        "closing",
        "config",
        "done",
        "first_size",
        "generation",
        "has_lanes",
        "has_setup",
        "held",
        "holders",
        "idle",
        "lane_sheds",
        "lanes",
        "last_error",
        "loop",
        "max_size",
        "max_waiting",
        "members",
        "note_trouble",
        "note_use",
        "only_place",
        "opening",
        "outage",
        "phase",
        "queue",
        "read_only_since",
        "resets_every_time",
        "retry_at",
        "settled",
        "suspect_since",
        "suspended",
        "tally",
        "total",
        "validate_after",
    )

    def __init__(self, config: PoolConfig) -> None:
        self.configure(config)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.done: asyncio.Future[None]
        """Awaited where nothing has to be waited for."""
        self.phase = Phase.NEW
        self.suspended = False
        self.held: str | None = None
        """While it is not None no connection is opened; if it says why, who needs one is refused."""
        self.first_size = 0
        """Connections to open at the start; 0 once they are there."""
        self.members: set[PooledConnection] = set()
        """Every live connection; its `status` says where it is."""
        self.idle: list[PooledConnection] = []
        """Those that can be lent, the one returned last at the end."""
        self.checking: set[PooledConnection] = set()
        """Those being checked, as long as the answer is not suspiciously late."""
        self.closing: set[PooledConnection] = set()
        """On their way out: the server still counts them, so the pool does too."""
        self.opening: dict[object, asyncio.Task[None]] = {}
        """Attempts to open one that have not ended."""
        self.tally = Tally()
        self.note_use = self.tally.use.observe
        self.total = Total()
        """How many borrowers wait, in all lanes."""
        self.outage = Outage(
            self.total, self.tally, lambda: self.config, lambda: self.refuse_all(self.unavailable)
        )
        self.lanes = Lanes(config.max_size, config.queue_target, self.total, self._make_queue, self.members)
        self.has_lanes = False
        """There is more than one lane, a priority or a limit. Until then all wait in `queue`."""
        self.only_place: object = None
        """Where all borrow until there are lanes: None if they name none. Then `NOWHERE`."""
        self.note_trouble: Callable[[], None]
        """To be told that a waiter of the only lane was refused."""
        self.lane_sheds = LaneSheds()
        self.queue = self.lanes.default.queue(NORMAL)
        """Borrowers without a connection, in order of arrival, until there are lanes."""
        self.holders: dict[Holder | None, PooledConnection] = {}
        """Which task holds which connection; the last one, if it holds several."""
        self.retry_at = 0.0
        """When the next attempt to open a connection is due, after one has failed; 0 when none is put off."""
        self.last_error: Exception | None = None
        """Why the last attempt to open a connection failed; None once one has succeeded."""
        self.generation = 0
        """Of the schema: how often it was found to have changed."""
        self.read_only_since: float | None = None
        """When a server that should take writes was found not to; None once one that does has been found."""
        self.suspect_since = 0.0
        """Connections not heard of since then are checked before they are lent."""
        self.settled = asyncio.Event()
        """Set while draining, once no connection and no waiter is left."""

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to this event loop."""
        self.loop = loop
        _open_here.add(self)
        # What uvloop's and asyncio's `create_future()` give: to ask them for it costs twice as much.
        self.queue.create_future = asyncio.Future
        self.done = loop.create_future()
        self.done.set_result(None)

    def refuse_other_loops(self) -> None:
        """Raise InterfaceError: the loop that runs is not the pool's. Nothing is said of a pool without one,
        which is not open."""
        if self.loop is None:
            return
        if self.loop is _OF_THE_PARENT:
            mistake = "was opened before this process was forked, and its sessions are the parent's"
            remedy = "open a pool in each process, after the fork"
        elif self.loop.is_closed():
            mistake = "belongs to an event loop that has ended"
            remedy = "open and close it inside of one asyncio.run()"
        else:
            mistake = "belongs to another event loop"
            remedy = "open a pool in each loop, or use asyncio.run_coroutine_threadsafe() with the pool's"
        raise asyncpg.InterfaceError(f"the pool {self.config.name!r} {mistake}: {remedy}")

    def _make_queue(self, lane: Lane, rank: int) -> WaitQueue:
        def refused() -> None:
            lane.breaker.refused()
            if self.only_place is not None and not self.has_lanes:
                self.note_trouble()

        def time_out(stalled: bool) -> PoolTimeout:
            refused()
            return self.timed_out(stalled)

        def turn_away() -> PoolSaturated:
            refused()
            self.lane_sheds.note(lane, rank)
            return self.saturated("stale", 0.0)

        def serving() -> int:
            if self.has_lanes:
                return self.lanes.shares.at_once(lane)
            return len(self.members) + len(self.opening)

        queue = WaitQueue(
            self.lanes.target(rank),
            self.tally.wait,
            time_out=time_out,
            turn_away=turn_away,
            serving=serving,
            total=self.total,
        )
        if self.loop is not None:
            queue.create_future = asyncio.Future
        return queue

    def configure(self, config: PoolConfig) -> None:
        """Take new settings; those that every borrow looks at are kept at hand."""
        self.config = config
        self.max_size = config.max_size
        self.max_waiting = config.max_waiting
        self.acquire_timeout = config.acquire_timeout
        self.validate_after = config.validate_after
        self.resets_every_time = config.resets_every_time
        self.has_setup = config.setup is not None

    # -- counting ----------------------------------------------------------------------------------

    @property
    def sessions(self) -> int:
        """What the server may count: live, opening and closing."""
        return len(self.members) + len(self.closing) + len(self.opening)

    @property
    def serving(self) -> int:
        """How many connections can serve the queue once all are open; 0 while there is none yet."""
        return self.config.max_size if self.members else 0

    def retry_in(self, now: float) -> float:
        """Seconds until the next attempt to open a connection; 0 when it is under way or due."""
        return max(0.0, self.retry_at - now)

    @property
    def fault(self) -> str | None:
        """The class of what is wrong with the server, or the way to it; None while nothing is known to be."""
        if self.read_only_since is not None and self.members:
            return NO_WRITABLE_SERVER.name
        return fault_of(self.last_error).name if self.last_error else None

    def stats(self, *, of_lanes: bool = False) -> PoolStats:
        """`of_lanes`: with those of each lane, which take longer to gather."""
        now = monotonic()
        queues = self._some_queues() if self.has_lanes else [self.queue]
        at = Counter(pooled.status for pooled in self.members)
        return PoolStats(
            name=self.config.name,
            min_size=self.config.min_size,
            max_size=self.config.max_size,
            size=len(self.members),
            idle=at[Status.IDLE],
            used=at[Status.IN_USE],
            opening=len(self.opening),
            closing=len(self.closing),
            returning=at[Status.RETURNING],
            validating=at[Status.CHECKING],
            waiting=self.total.waiting,
            oldest_wait=max((queue.oldest_wait(now) for queue in queues), default=0.0),
            standing_queue=max((queue.standing(now) for queue in queues), default=0.0),
            utilisation=at[Status.IN_USE] / self.config.max_size,
            suspended=self.suspended,
            closing_down=self.phase in {Phase.DRAINING, Phase.CLOSED},
            lanes=self._lane_stats(at[Status.IN_USE], now) if of_lanes else (),
            shed_by_lane=self.lane_sheds.counts() if of_lanes else {},
            fault=self.fault,
            last_error=describe_error(self.last_error) if self.last_error else None,
            **self.tally.counts(),
        )

    def _lane_stats(self, used: int, now: float) -> tuple[LaneStats, ...]:
        if self.has_lanes:
            return lane_stats(self.lanes, self.lanes.oldest_leases(), self.lane_sheds, now)
        if self.only_place is None:
            return ()
        oldest = min((p.borrowed_at for p in self.members if p.status is Status.IN_USE), default=now)
        only = lane_stats([self.lanes.default], {}, self.lane_sheds, now)[0]
        return (replace(only, used=used, oldest_use=now - oldest),)

    @property
    def wanting(self) -> int:
        """How many wait and may have a connection. Others may wait for what is kept for somebody else."""
        if self.suspended or (self.has_lanes and self.lanes.next_turn() is None):
            return 0
        return self.total.waiting

    @property
    def not_to_be_returned(self) -> int:
        """Connections that nobody has to return first: idle ones, those being checked, those to be opened."""
        can_open = max(self.config.max_size - len(self.members) - len(self.closing), 0)
        return len(self.idle) + len(self.checking) + can_open

    def _some_queues(self) -> list[WaitQueue]:
        """Those that are not empty, or enough of them."""
        lanes = islice(self.lanes.waiting_lanes(), _ENOUGH_LANES)
        return [queue for lane in lanes for queue in lane.queues if queue is not None]

    def refuse_all(self, error: Callable[[PoolStats], Exception]) -> int:
        """Empty all queues: every waiter gets an error of its own. Returns how many there were."""
        if not self.total.waiting:
            return 0
        # Gathered once: for each of a thousand waiters that would keep the event loop for half a second.
        make = partial(error, self.stats())
        refused = self.queue.refuse_all(make)
        for lane in list(self.lanes.waiting_lanes()):
            refused += sum(queue.refuse_all(make) for queue in lane.queues if queue is not None)
        return refused

    # -- refusing ----------------------------------------------------------------------------------

    def timed_out(self, stalled: bool) -> PoolTimeout:
        """The error of a waiter whose budget is used up; counts it."""
        self.tally.timeouts += 1
        stats = self.stats()
        return PoolTimeout(f"no connection became free in time: {stats.summary()}", stats, stalled=stalled)

    def saturated(self, reason: str, retry_after: float, stats: PoolStats | None = None) -> PoolSaturated:
        """The error of a borrower that is turned away; counts it."""
        self.tally.shed[reason] += 1
        stats = stats or self.stats()
        return PoolSaturated(
            f"{_SHED_BECAUSE[reason]} ({reason}): {stats.summary()}",
            stats,
            reason=reason,
            retry_after=retry_after,
        )

    def unavailable(self, stats: PoolStats | None = None) -> PoolUnavailable:
        """The error of a borrower when no connection can be opened."""
        stats = stats or self.stats()
        why = f"may be opened ({self.held})" if self.held else "can be opened"
        unavailable = PoolUnavailable(
            f"no connection {why}: {stats.summary()}",
            stats,
            retry_after=self.retry_in(monotonic()),
        )
        unavailable.__cause__ = self.last_error
        return unavailable

    def refusing(self, stats: PoolStats | None = None) -> PoolClosing:
        """The error of a borrower at a pool that is not open."""
        return PoolClosing(f"the pool {self.phase.value}", stats or self.stats())


_open_here: weakref.WeakSet[PoolState] = weakref.WeakSet()
_of_the_parent: list[PooledConnection] = []
"""In a forked process: kept, because a transport that is closed here is gone from the parent's loop, too."""


def _leave_to_the_parent() -> None:
    """In a forked process: forget the sessions. Their sockets are the parent's, too, and a word from here
    would spoil them."""
    for state in tuple(_open_here):
        state.loop = _OF_THE_PARENT
        state.phase = Phase.CLOSED
        _of_the_parent.extend(state.members | state.closing)
        for known in (state.members, state.idle, state.checking, state.closing, state.holders):
            known.clear()
    _open_here.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_leave_to_the_parent)
