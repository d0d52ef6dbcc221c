"""Lending in lanes: binds `Lanes`, which decides, to the pool's connections, its waiters and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from functools import partial
from operator import attrgetter
from time import monotonic

from lifeguard.pool.connection import PooledConnection, Status
from lifeguard.pool.events import Reporter
from lifeguard.pool.exchange import note_served
from lifeguard.pool.lane import NORMAL, RANKS, Lane, Limits
from lifeguard.pool.lane_breaker import PATIENCE
from lifeguard.pool.names import NOWHERE, OutsideLane, Place
from lifeguard.pool.newcomers import NEWCOMERS
from lifeguard.pool.queue import Waiter, WaitQueue
from lifeguard.pool.state import Phase, PoolState
from lifeguard.pool.stats import PoolStats

_NO_LANE: Place = (None, NORMAL)
_OPEN = Phase.OPEN  # looked up for every request


def _lent(state: PoolState) -> list[PooledConnection]:
    """The longest first."""
    lent = [pooled for pooled in state.members if pooled.status is Status.IN_USE]
    return sorted(lent, key=attrgetter("borrowed_at"))


class LaneLending:
    """Who may have a connection, and who waits, in a pool with lanes. A pool has them from the moment on in
    which a borrower names a second one, a priority or a limit, or one is refused in the only lane."""

    def __init__(
        self,
        state: PoolState,
        report: Reporter,
        *,
        dispatch: Callable[[], None],
        refuse: Callable[[float], None],
    ) -> None:
        """`dispatch` brings waiters and idle connections together; the other one raises at once what a
        borrower with so many seconds would only learn later."""
        self._refuse_the_hopeless = refuse
        self._state = state
        self._lanes = state.lanes
        self._report = report
        self._open: set[Lane] = set()
        """Lanes whose breaker is open, as has been reported."""
        self.timer: asyncio.TimerHandle | None = None
        """Of the next look at all lanes, while somebody waits in one."""
        self._dispatch = dispatch
        state.note_trouble = self._note_trouble

    # -- lanes -------------------------------------------------------------------------------------

    def limit(self, name: Hashable, limits: Limits) -> None:
        """Raises ValueError for what cannot be kept."""
        promised = self._lanes.promised(besides=name) + limits.at_least
        most = self._state.config.max_size
        if limits.at_least and promised >= most:
            raise ValueError(f"at_least of all lanes must be below max_size ({most}), got {promised}")
        self._lanes.limit(name, limits, monotonic())
        self.begin()

    def is_only(self, place: Place | None) -> bool:
        """Whether all that is borrowed is borrowed there. One lane alone costs what none does."""
        state = self._state
        if state.has_lanes or state.only_place is not None or place is None:
            return place == state.only_place
        was_used = state.total.waiting or state.tally.use.count or _lent(state)
        name, rank = place
        # It is compared for every borrower, whoever that is: no name that may fail at that.
        if was_used or rank != NORMAL or type(name) not in {str, int}:
            return False
        state.only_place = place
        self._lanes.default.name = name
        return True

    def _note_trouble(self) -> None:
        """A waiter of the only lane was refused: its breaker must learn of the next ones."""
        loop = self._state.loop
        if loop is not None and not loop.is_closed():
            # Not now: the queue may be in the middle of something.
            loop.call_soon(partial(self.begin, in_trouble=True), context=Context())

    def begin(self, *, in_trouble: bool = False) -> None:
        """From now on there are lanes. What was borrowed so far was borrowed in the only one."""
        state = self._state
        if state.has_lanes or state.phase is Phase.CLOSED:
            return
        state.has_lanes = True
        state.only_place = NOWHERE
        lent = _lent(state)
        if not (in_trouble and lent):
            self._lanes.default.breaker.succeeded(0.0)
        if not (lent or state.queue.length):
            return
        only = self._lanes.find(self._lanes.default.name, monotonic())
        used = state.tally.use.snapshot()
        if used.count:
            last_return = max((pooled.idle_since for pooled in state.members), default=0.0)
            only.last_return = last_return
            only.breaker.learn(used.sum / used.count, last_return, 1)
        for pooled in lent:
            self._lanes.take(only, pooled)
        self._lanes.uses(only, min(state.config.max_size, len(lent) + state.queue.length))
        if state.queue.length:
            self._lanes.joined(only, NORMAL)
        self._set_timer(monotonic())

    def _find(self, place: Place | None, now: float) -> tuple[Lane, int]:
        name, rank = place or _NO_LANE
        if not self._state.has_lanes:
            self.begin()
        return self._lanes.find(name, now), rank

    # -- borrowing ---------------------------------------------------------------------------------

    def lend(self, pooled: PooledConnection, place: Place | None, now: float) -> bool:
        """An idle one; False if its lane may not have it now."""
        lanes = self._lanes
        name, rank = place or _NO_LANE
        lane = lanes.known(name)
        if lane is None:
            lane, rank = self._find(place, now)
        else:
            lane.last_seen = now
        if not lanes.may_take_now(lane, rank):
            return False
        lanes.take(lane, pooled)
        return True

    def line_up(self, timeout: float | None, place: Place | None) -> tuple[WaitQueue, Waiter]:
        """As `Lending.line_up`."""
        state, lanes = self._state, self._lanes
        budget = state.acquire_timeout if timeout is None else timeout
        now = monotonic()
        if state.phase is not _OPEN or not state.members or budget <= 0:
            self._refuse_the_hopeless(budget)
        name, rank = place or _NO_LANE
        lane = lanes.known(name)
        if lane is None:
            lane, rank = self._find(place, now)
        else:
            lane.last_seen = now
        if self.timer is None:
            self.watch(now)
        queue = lane.queues[rank] or lane.queue(rank)
        longest = state.max_waiting
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
        if lane.places[rank] is None:
            lanes.joined(lane, rank)
        if (state.idle or len(state.members) < state.max_size) and lanes.next_turn() is not None:
            self._dispatch()
        return queue, waiter

    def line_up_again(self, place: Place | None, budget: float, now: float) -> tuple[WaitQueue, Waiter]:
        """At the head of its queue: it has had its turn."""
        lane, rank = self._find(place, now)
        queue = lane.queue(rank)
        waiter = queue.join_first(now, budget)
        self._lanes.joined(lane, rank)
        self._set_timer(now)
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
            note_served(self._lanes, pooled, now)

    def take_from_the_departed(self, pooled: PooledConnection) -> None:
        """It was handed to one that had left in that very instant."""
        self._lanes.undo(pooled)

    # -- time --------------------------------------------------------------------------------------

    def _tick_if_due(self, now: float) -> None:
        if now >= self._lanes.tick_at:
            if self._state.has_lanes:
                self.tick(now)
            else:
                self._lanes.tick(now)  # it has nothing to look at, but knows from now on that somebody looked

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

    def watch(self, now: float) -> None:
        """Who waits must not depend on others' returns. From then on an only lane is seen to hang, too."""
        self._tick_if_due(now)
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        if self.timer is None:
            loop = self._state.loop or asyncio.get_running_loop()
            self.timer = loop.call_later(max(self._lanes.tick_at - now, 0), self._ring, context=Context())

    def _ring(self) -> None:
        self.timer = None
        now = monotonic()
        if self._state.total.waiting:
            self.watch(now)
        else:
            self._tick_if_due(now)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
