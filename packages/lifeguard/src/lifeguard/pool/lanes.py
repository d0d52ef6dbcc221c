"""Which lane gets the next connection. Decisions: pure, with the time as an argument.

A lane is a group of borrowers whose trouble must not become the others': a route, a tenant, a job. Inside a
lane it is first come, first served. Between lanes `Shares` says which may take a connection. Of those it is
the turn of the highest rank, then of the lane that holds least by its weight, then of the one that has lately
had least.

The figures come from a simulation:
packages/lifeguard/tests/pool/test_lanes_table.py runs this code through its scenarios.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from math import ceil, exp, inf
from operator import attrgetter

from lifeguard.pool.exchange import Exchange
from lifeguard.pool.lane import NORMAL, RANKS, UNLIMITED, Holding, Lane, Limits, Order
from lifeguard.pool.names import OutsideLane
from lifeguard.pool.newcomers import MOST_LANES, NEWCOMERS, OTHERS, Newcomers
from lifeguard.pool.queue import Total, WaitQueue
from lifeguard.pool.shares import Shares

TICK = 0.05
"""Seconds between two looks at all lanes; a lane without a return for so long loses its credit."""
# To look at a lane costs about a microsecond. With more lanes than this the looks are rarer in proportion.
_LANES_PER_TICK = 512
# Seconds: of the average that demand is, and of what a lane has lately had.
_MEMORY = 2.0
# Seconds: a return after a quarter of the queue's target is quick. Without a target as if it had its default.
_QUICK = 1 / 4
_DEFAULT_TARGET = 0.25
# Hand-outs to higher ranks before it is a lower one's turn. In overload that is one connection in a hundred:
# borrowers of a higher rank that need not wait are not counted.
_PASSED_AT_MOST = 63
# A lane's flow is told from so many hand-outs or more: fewer would be chance, and turn away bursts.
_TELLING = 4
# Parts of `max_waiting`, by rank, once ranks are used: else the lower fill the queue, and the highest finds
# it full.
_ROOM = (1.0, 0.75, 0.5)
# Times the pool's `queue_target`, by rank.
_TARGETS = (inf, 1.0, 0.5)
# Seconds: a tick is so late if the process was stopped, its event loop blocked, or nobody waited.
_STOPPED = 0.5
_NO_LIMIT = 1 << 62
_ONLY_NORMAL = (NORMAL,)
_SEVERAL = 2
_NOBODY = object()


class Lanes:
    """The lanes of one pool. Times are monotonic seconds."""

    def __init__(
        self,
        size: int,
        target: float,
        total: Total,
        make_queue: Callable[[Lane, int], WaitQueue],
        holdings: Iterable[Holding],
    ) -> None:
        """`size` is the number of connections, `target` the queue's. `holdings` are all that lanes hold at
        the moment it is iterated, and others."""
        self.shares = Shares(size)
        self._total = total
        self._target = target
        self.quick = (target or _DEFAULT_TARGET) * _QUICK
        self._make_queue = make_queue
        self.default = Lane(None, 0.0, make_queue)
        """The lane in which all borrowed before there were others, often the one without a name; the same one
        each time it appears."""
        self._lanes: dict[Hashable, Lane] = {}
        """Those in which somebody came lately."""
        self.known = self._lanes.get
        """The lane of this name, if somebody came in it lately."""
        self._holdings = holdings
        self._limits: dict[Hashable, Limits] = {}
        self._has_promised = False
        """A lane was promised something with `at_least`."""
        self.newcomers = Newcomers()
        self._orders = tuple(Order(rank, holdings) for rank in RANKS)
        self.normal = self._orders[NORMAL]
        """Of the lanes in which somebody of normal rank waits."""
        self.refile: Callable[[Lane], None] = self.normal.move
        """A lane holds more or less than before."""
        self.exchange = Exchange(self).exchange
        self._passed = [0 for _ in RANKS]
        """Hand-outs to higher ranks since each was last served."""
        self.uses_ranks = False
        """Not all borrowers are of one rank."""
        self.is_plain = True
        """All are of one rank, nothing was promised, no breaker is open."""
        self._keeps = True
        self.tick_at = 0.0
        self._ticked_at = 0.0
        self._interval = TICK
        self._awake_since = 0.0

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def __contains__(self, lane: Lane) -> bool:
        return self._lanes.get(lane.name) is lane

    def __len__(self) -> int:
        return len(self._lanes)

    def target(self, rank: int) -> float:
        """Of a queue of this rank: its wait, in seconds, above which the excess is turned away. The highest
        waits up to its deadline."""
        return self._target * _TARGETS[rank] if self._target else 0.0

    # -- lanes come and go -------------------------------------------------------------------------

    def find(self, name: Hashable, now: float) -> Lane:
        """The lane of a borrower that comes now."""
        lane = self._lanes.get(name)
        if lane is None:
            if name is not None and name not in self._limits:
                name = self._shared_by(name, now)
            lane = self._lanes.get(name) or self._make(name, now)
        lane.last_seen = now
        return lane

    def _shared_by(self, name: Hashable, now: float) -> Hashable:
        """The lane that it shares with others, or its own."""
        if isinstance(name, OutsideLane):
            return name if self.newcomers.knows(name) or self.newcomers.comes(name, now) else NEWCOMERS
        return name if len(self._lanes) < MOST_LANES else OTHERS

    def _make(self, name: Hashable, now: float) -> Lane:
        default = self.default
        is_default = type(name) is type(default.name) and name == default.name
        lane = default if is_default else Lane(name, now, self._make_queue)
        self._lanes[name] = lane
        lane.limit(self._limits.get(name, UNLIMITED))
        if name is NEWCOMERS:
            lane.is_outside = True
        if self._keeps:
            self.shares.one_more(is_second=len(self._lanes) == _SEVERAL)
        return lane

    def limit(self, name: Hashable, limits: Limits, now: float) -> None:
        """From now on it has these limits."""
        self._limits[name] = limits
        self._has_promised = any(given.at_least for given in self._limits.values())
        self.is_plain = self.is_plain and not self._has_promised
        lane = self._lanes.get(name) or self._make(name, now)
        lane.limit(limits)
        self.refile(lane)
        self._divide()

    def promised(self, *, besides: Hashable = _NOBODY) -> int:
        """How many connections were promised with `at_least` to all lanes but one."""
        return sum(limits.at_least for name, limits in self._limits.items() if name != besides)

    def served(self, name: OutsideLane, now: float) -> None:
        """A borrower of this name from outside has had what it came for."""
        shared = self._lanes.get(NEWCOMERS)
        self.newcomers.served(name, now, crowded=shared is not None and shared.waiting > 0)

    # -- taking and giving back --------------------------------------------------------------------

    def may_take_now(self, lane: Lane, rank: int) -> bool:
        """Whether a newcomer may: it passes nobody of its own lane. Who waits in others may not."""
        if lane.filed and lane.has_before(rank):
            return False
        if lane.breaker.is_open and not lane.breaker.admits:
            return False
        return self.shares.may_take(lane, rank)

    # Both run for every borrower, so they are written out.

    def take(self, lane: Lane, lease: Holding) -> None:
        """It holds one more."""
        lease.lane = lane
        shares = self.shares
        used = lane.in_use
        lane.in_use = used + 1
        shares.free -= 1
        if used < lane.full:
            shares.owed_full -= 1
            if used < lane.mean:
                shares.owed_mean -= 1
            if used < lane.floor:
                shares.owed_floor -= 1
        elif not used and lane.is_small:
            shares.small_held += 1
        if lane.breaker.is_open:
            lane.breaker.lent(lease)
        if lane.filed:
            self.refile(lane)

    def give_back(self, lease: Holding, now: float, *, succeeded: bool | None) -> Lane | None:
        """Its lane holds one less; None if none holds it. `succeeded`: it worked, in time; None if nothing is
        to be learnt from it."""
        lane = lease.lane
        if lane is None:
            return None
        lease.lane = None
        used = lane.in_use
        if succeeded:
            lane.note_success(now - lease.borrowed_at, now, self.quick)
            if lane.breaker.is_alert:
                lane.tell_breaker()
                lane.breaker.succeeded(now)
        else:
            if succeeded is not None:
                lane.note_failure(now - lease.borrowed_at, now)
            lane.breaker.ended(lease)
        lane.in_use = used = used - 1
        shares = self.shares
        shares.free += 1
        if used < lane.full:
            shares.owed_full += 1
            if used < lane.mean:
                shares.owed_mean += 1
            if used < lane.floor:
                shares.owed_floor += 1
        elif not used and lane.is_small:
            shares.small_held -= 1
        if lane.filed:
            self.refile(lane)
        return lane

    def undo(self, lease: Holding) -> None:
        """Its lane holds one less, and nothing is learnt from that."""
        self.give_back(lease, 0.0, succeeded=None)

    def oldest_leases(self) -> dict[Lane, float]:
        """Since when each lane holds what it has held longest; without those that hold nothing."""
        oldest: dict[Lane, float] = {}
        for lease in self._holdings:
            lane = lease.lane
            if lane is not None and lease.borrowed_at < oldest.get(lane, inf):
                oldest[lane] = lease.borrowed_at
        return oldest

    # -- waiting -----------------------------------------------------------------------------------

    def objection(
        self,
        lane: Lane,
        rank: int,
        now: float,
        budget: float,
        longest: int,
        *,
        ahead: int = 0,
        serving: bool = True,
    ) -> str | None:
        """Why a newcomer should not wait for `budget` seconds; None: it may, after `ahead` others like it.
        `longest` is the queue's, over all lanes; `serving`: there is a connection at all."""
        if rank != NORMAL:
            self._use_ranks()
        if lane.breaker.is_open and (lane.waiting or not lane.breaker.admits):
            return "lane_breaker"
        queue = lane.queue(rank)
        if self._total.waiting + ahead >= self.room(rank, longest):
            queue.asked_at = now
            return "queue_full"
        servers = max(_TELLING, lane.in_use) if serving else 0
        return queue.objection(now, servers, budget, _NO_LIMIT, ahead=ahead)

    def room(self, rank: int, longest: int) -> int:
        """How many may wait in all lanes for one of this rank to wait as well."""
        return ceil(longest * _ROOM[rank]) if self.uses_ranks else longest

    def _use_ranks(self) -> None:
        self.uses_ranks = True
        self.is_plain = False
        self.refile = self._refile_in_all

    def joined(self, lane: Lane, rank: int) -> None:
        """Somebody waits in its queue."""
        if lane.places[rank] is None:
            if rank != NORMAL:
                self._use_ranks()
            self._orders[rank].file(lane)

    def next_turn(self) -> tuple[Lane, int] | None:
        """Who gets the next free connection, as a lane and a rank; None if nobody may."""
        for rank in self._ranks_in_turn() if self.uses_ranks else _ONLY_NORMAL:
            order = self._orders[rank]
            shares = self.shares
            may_take = shares.may_take_at_last if self._passed[rank] >= _PASSED_AT_MOST else shares.may_take
            while order.filed or order.has_parked:
                if shares.owed_floor and shares.free <= shares.owed_floor:
                    lane = self._first_promised(order)
                else:
                    lane = order.first(may_take)
                if lane is None:
                    break
                queue = lane.queues[rank]
                if queue is not None and queue.length:
                    return lane, rank
                order.remove(lane)
        return None

    def _first_promised(self, order: Order) -> Lane | None:
        """What is free was promised to some."""
        promised = (self._lanes[name] for name, limits in self._limits.items() if limits.at_least)
        below = (lane for lane in promised if lane.in_use < lane.floor and order.has(lane))
        return min(below, key=attrgetter("in_use"), default=None)

    def _ranks_in_turn(self) -> list[int]:
        """Those that were passed too often come first, the lowest of them before the others."""
        due = [rank for rank in reversed(RANKS) if self._passed[rank] >= _PASSED_AT_MOST]
        return [*due, *(rank for rank in RANKS if rank not in due)] if due else list(RANKS)

    def handed_out(self, rank: int) -> None:
        """A waiter of this rank has got a connection."""
        if self.uses_ranks:
            self._passed[rank] = 0
            for lower in RANKS[rank + 1 :]:
                self._passed[lower] += 1

    def pass_over(self, lane: Lane, rank: int) -> None:
        """All that wait there have left and only do not know it yet."""
        self._orders[rank].remove(lane)

    def waiting_lanes(self) -> Iterator[Lane]:
        """Those in which somebody waits; one may come more than once."""
        return chain.from_iterable(order.lanes() for order in self._orders)

    def _refile_in_all(self, lane: Lane) -> None:
        for order in self._orders:
            order.move(lane)

    # -- what is kept ------------------------------------------------------------------------------

    def stop_keeping(self) -> None:
        """Nobody comes any more: whoever waits may take what there is."""
        self._keeps = False
        self._divide()

    def resize(self, size: int) -> None:
        """There are so many connections now."""
        if size != self.shares.size:
            self.shares.size = size
            self._divide()

    def tick(self, now: float) -> list[Lane]:
        """Measure what each lane uses and needs. Returns those whose breaker opens by it."""
        elapsed = now - self._ticked_at
        self._ticked_at = now
        if now - self.tick_at > _STOPPED:
            self._awake_since = now  # nobody's silence counts from before
        fade = exp(-elapsed / _MEMORY)
        # What a lane uses now says nothing of a long time in which nobody looked.
        share = 1 - exp(-min(elapsed, 2 * self._interval) / _MEMORY)
        hung = []
        gone = []
        is_plain = not (self.uses_ranks or self._has_promised)
        oldest = self.oldest_leases()
        for lane in self._lanes.values():
            waiting = lane.waiting if lane.filed else 0
            if not (lane.in_use or waiting) and lane.may_be_forgotten(now):
                gone.append(lane.name)
                continue
            lane.tell_breaker()
            lane.charge = lane.charge_told = lane.charge * fade
            lane.demand = lane.demand * fade + min(self.shares.size, lane.in_use + waiting) * share
            if lane.in_use:
                if now - lane.last_return > TICK:
                    lane.credit = 0
                    if now - lane.last_return > lane.breaker.usual_hold:
                        lane.pace = 0
                if lane.breaker.look(oldest.get(lane, now), self._awake_since, now):
                    hung.append(lane)
            is_plain = is_plain and not lane.breaker.is_open
        for name in gone:
            self._forget(name)
        self.is_plain = is_plain
        for order in self._orders:
            order.file_all()
        self._divide()
        self._interval = TICK * max(1.0, len(self._lanes) / _LANES_PER_TICK)
        self.tick_at = now + self._interval
        return hung

    def _forget(self, name: Hashable) -> None:
        try:
            lane = self._lanes.pop(name)
        except Exception:  # noqa: BLE001 - a hash that changes: the lane stays, which harms nobody
            return
        if lane.is_outside:
            self.newcomers.left(name)
        for order in self._orders:
            order.remove(lane)

    def uses(self, lane: Lane, demand: float) -> None:
        """So many connections are used or waited for in it; nobody has measured that before."""
        lane.demand = demand
        self._divide()

    def _divide(self) -> None:
        self.shares.divide(self._lanes.values(), keep=self._keeps)
