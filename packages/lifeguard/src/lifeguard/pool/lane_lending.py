"""Lending in lanes: binds `Lanes`, which decides, to the pool's connections, its waiters and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from functools import partial
from operator import attrgetter
from time import monotonic
from typing import TypeAlias

from lifeguard.pool.connection import PooledConnection, Status
from lifeguard.pool.events import Reporter
from lifeguard.pool.lane import NORMAL, NOT_FILED, RANKS, Lane, Limits
from lifeguard.pool.lane_breaker import PATIENCE
from lifeguard.pool.names import OutsideLane
from lifeguard.pool.newcomers import NEWCOMERS
from lifeguard.pool.queue import Waiter, WaitQueue
from lifeguard.pool.state import PoolState
from lifeguard.pool.stats import PoolStats

Place: TypeAlias = tuple[Hashable, int]
"""A lane's name and a rank."""
_NO_LANE: Place = (None, NORMAL)


class LaneLending:
    """Who may have a connection, and who waits, in a pool with lanes. A pool has them from the moment on in
    which a borrower names one, or a priority."""

    def __init__(self, state: PoolState, report: Reporter, *, dispatch: Callable[[], None]) -> None:
        """`dispatch` brings waiters and idle connections together."""
        self._state = state
        self._lanes = state.lanes
        self._report = report
        self._open: set[Lane] = set()
        """Lanes whose breaker is open, as has been reported."""
        self._timer: asyncio.TimerHandle | None = None
        self._dispatch = dispatch

    # -- lanes -------------------------------------------------------------------------------------

    def limit(self, name: Hashable, limits: Limits) -> None:
        """Raises ValueError for what cannot be kept."""
        promised = self._lanes.promised(besides=name) + limits.at_least
        most = self._state.config.max_size
        if limits.at_least and promised >= most:
            raise ValueError(f"at_least of all lanes must be below max_size ({most}), got {promised}")
        self._lanes.limit(name, limits, monotonic())
        self._begin()

    def _begin(self) -> None:
        """What was borrowed so far was borrowed in the lane that has no name."""
        state = self._state
        if state.has_lanes:
            return
        state.has_lanes = True
        lent = [pooled for pooled in state.members if pooled.status is Status.IN_USE]
        if not (lent or state.queue.length):
            return
        default = self._lanes.find(None, monotonic())
        for pooled in sorted(lent, key=attrgetter("borrowed_at")):
            self._lanes.take(default, pooled)
        if state.queue.length:
            self._lanes.joined(default, NORMAL)
            self._watch()

    def _find(self, place: Place | None, now: float) -> tuple[Lane, int]:
        name, rank = place or _NO_LANE
        if not self._state.has_lanes:
            self._begin()
        return self._lanes.find(name, now), rank

    # -- borrowing ---------------------------------------------------------------------------------

    def lane_of_newcomer(self, place: Place | None, now: float) -> Lane | None:
        """Its lane, if it may take an idle connection now."""
        name, rank = place or _NO_LANE
        lane = self._lanes.known(name)
        if lane is None:
            lane, rank = self._find(place, now)
        else:
            lane.last_seen = now
        return lane if self._lanes.may_take_now(lane, rank) else None

    def lend(self, pooled: PooledConnection, lane: Lane) -> None:
        pooled.failed = False
        self._lanes.take(lane, pooled)

    def line_up(self, place: Place | None, budget: float, now: float) -> tuple[WaitQueue, Waiter]:
        """Raises PoolSaturated at once when waiting is no use."""
        state, lanes = self._state, self._lanes
        name, rank = place or _NO_LANE
        lane = lanes.known(name)
        if lane is None:
            lane, rank = self._find(place, now)
        else:
            lane.last_seen = now
        if now >= lanes.tick_at:
            self.tick(now)
        queue = lane.queues[rank] or lane.queue(rank)
        longest = state.config.max_waiting
        if (
            now > queue.calm_until
            or budget < queue.target
            or lane.breaker.is_open
            or state.total.waiting >= (lanes.room(rank, longest) if lanes.uses_ranks else longest)
        ):
            objection = self._objection(lane, rank, budget, now, 0)
            if objection is not None:
                raise self.saturated(lane, rank, objection)
        waiter = queue.join(now, budget)
        if lane.levels[rank] == NOT_FILED:
            lanes.joined(lane, rank)
        if self._timer is None:
            self._watch()
        return queue, waiter

    def line_up_again(self, place: Place | None, budget: float, now: float) -> tuple[WaitQueue, Waiter]:
        """At the head of its queue: it has had its turn."""
        lane, rank = self._find(place, now)
        queue = lane.queue(rank)
        waiter = queue.join(now, budget, first=True)
        self._lanes.joined(lane, rank)
        self._watch()
        return queue, waiter

    def try_shed(self, place: Place | None, budget: float, ahead: int, now: float) -> float | None:
        """Count a newcomer as turned away, if it would be; seconds after which to retry."""
        lane, rank = self._find(place, now)
        self._tick_if_due(now)
        if self._state.idle and not ahead and self._lanes.may_take_now(lane, rank):
            return None
        objection = self._objection(lane, rank, budget, now, ahead)
        if objection is None:
            return None
        self._count_refusal(lane, rank, objection)
        return self._retry_after(lane, rank, objection, now)

    def _objection(self, lane: Lane, rank: int, budget: float, now: float, ahead: int) -> str | None:
        state = self._state
        longest = state.config.max_waiting
        serving = bool(state.members)
        objection = self._lanes.objection(lane, rank, now, budget, longest, ahead=ahead, serving=serving)
        if objection == "queue_full" and not state.suspended and self._lanes.shares.may_take(lane, rank):
            # As long as there are connections for it that need not be returned first it may wait.
            longest += state.not_to_be_returned
            objection = self._lanes.objection(lane, rank, now, budget, longest, ahead=ahead, serving=serving)
        return objection

    # -- refusing ----------------------------------------------------------------------------------

    def saturated(self, lane: Lane, rank: int, reason: str, stats: PoolStats | None = None) -> Exception:
        """The error of a borrower that is turned away; counts it."""
        self._count_refusal(lane, rank, reason, in_tally=False)
        retry_after = self._retry_after(lane, rank, reason, monotonic())
        return self._state.saturated(reason, retry_after, stats)

    def _count_refusal(self, lane: Lane, rank: int, reason: str, *, in_tally: bool = True) -> None:
        lane.breaker.refused()
        self._state.lane_sheds.note(lane, rank)
        if in_tally:
            self._state.tally.shed[reason] += 1

    def _retry_after(self, lane: Lane, rank: int, reason: str, now: float) -> float:
        if reason == "lane_breaker":
            return PATIENCE
        return lane.queue(rank).expected_wait(now, max(1, lane.in_use))

    # -- returning ---------------------------------------------------------------------------------

    def hand_out(self, pooled: PooledConnection, now: float) -> bool:
        """Give a connection to whoever is next; False if nobody may have it."""
        lanes = self._lanes
        while (turn := lanes.next_turn()) is not None:
            lane, rank = turn
            queue = lane.queues[rank]
            if queue is not None and queue.hand_out(pooled, now):
                if lanes.uses_ranks:
                    lanes.handed_out(rank)
                pooled.failed = False
                lanes.take(lane, pooled)
                return True
            lanes.pass_over(lane, rank)
        return False

    def give_back(self, pooled: PooledConnection, now: float) -> None:
        """A lease has ended."""
        lane = self._lanes.give_back(pooled, now, succeeded=not pooled.failed)
        if lane is None:  # its connection was lost meanwhile
            return
        if self._open and not lane.breaker.is_open:
            self._tell_of_closed()
        if lane.is_outside and not pooled.failed:
            name = pooled.place[0] if pooled.place is not None else None
            if isinstance(name, OutsideLane):
                self._lanes.served(name, now)

    def pass_within(self, pooled: PooledConnection, now: float) -> bool:
        """Give it to the next waiter of the lane that gives it back, if there is nothing to decide."""
        if pooled.failed or self._open:
            return False
        queue = self._lanes.exchange(pooled, now)
        if queue is None:
            return False
        pooled.borrowed_at = now
        if not queue.hand_out(pooled, now):  # all have left: there is nothing more to be learnt
            self._lanes.undo(pooled)
            return False
        lane, place = pooled.lane, pooled.place
        if lane is not None and lane.is_outside and place is not None and isinstance(place[0], OutsideLane):
            self._lanes.served(place[0], now)
        return True

    def take_from_the_departed(self, pooled: PooledConnection) -> None:
        """It was handed to one that had left in that very instant."""
        self._lanes.undo(pooled)

    # -- time --------------------------------------------------------------------------------------

    def _tick_if_due(self, now: float) -> None:
        if now >= self._lanes.tick_at:
            self.tick(now)

    def tick(self, now: float) -> None:
        """Measure, refuse those of lanes that hang, and serve whoever may have a connection by now."""
        state = self._state
        # While none can be opened there are no more than these.
        size = state.config.max_size if state.last_error is None else max(1, len(state.members))
        self._lanes.resize(size)
        for lane in self._lanes.tick(now):
            if lane.name is NEWCOMERS and self._set_aside_whoever_hangs(lane, now):
                continue
            oldest_use = now - self._lanes.oldest_leases().get(lane, now)
            stats = state.stats()
            for rank in RANKS:
                lane.queue(rank).refuse_all(partial(self.saturated, lane, rank, "lane_breaker", stats))
            self._open.add(lane)
            self._report("warning", "lane_breaker_opened", lane=lane.label, oldest_use=oldest_use)
        if self._open:
            self._tell_of_closed()
        self._dispatch()

    def _set_aside_whoever_hangs(self, newcomers: Lane, now: float) -> bool:
        """Whether it is one of the newcomers that hangs. From now on it does so in a lane of its own, with
        what it holds, and the others go on."""
        overdue: dict[OutsideLane, list[PooledConnection]] = {}
        number = 0
        for pooled in self._state.members:
            if pooled.lane is newcomers and now - pooled.borrowed_at > PATIENCE and pooled.place is not None:
                number += 1
                if isinstance(pooled.place[0], OutsideLane):
                    overdue.setdefault(pooled.place[0], []).append(pooled)
        name, held = max(overdue.items(), key=lambda one: len(one[1]), default=(None, []))
        if name is None or len(held) * 2 <= number:
            return False
        if not self._lanes.newcomers.set_aside(name):
            return False
        own = self._lanes.find(name, now)
        for pooled in held:
            self._lanes.undo(pooled)
            self._lanes.take(own, pooled)
        newcomers.breaker.is_open = False
        self._report("warning", "newcomer_set_aside", lane=own.label, held=len(held))
        return True

    def _tell_of_closed(self) -> None:
        """Breakers that a success has closed, or whose lane is forgotten because nobody comes any more."""
        for lane in tuple(self._open):
            if not lane.breaker.is_open or lane not in self._lanes:
                self._open.discard(lane)
                self._report("info", "lane_breaker_closed", lane=lane.label)

    def _watch(self) -> None:
        """Who waits must not depend on others' returns."""
        if self._timer is None:
            delay = self._lanes.tick_at - monotonic()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(delay, 0), self._ring, context=Context())

    def _ring(self) -> None:
        self._timer = None
        self._tick_if_due(monotonic())
        if self._state.total.waiting:
            self._watch()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
