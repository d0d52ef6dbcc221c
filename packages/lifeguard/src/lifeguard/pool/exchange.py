"""What goes from one lane to the next in one step. Decisions: pure, with the time as an argument.

`Lanes.give_back`, `next_turn` and `take` would come to the same. But in a busy pool with many lanes each
connection that comes back goes to another lane at once, and what these three decide is most often plain.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Protocol

from lifeguard.pool.lane import NORMAL, PARKED, Holding, Lane, Order
from lifeguard.pool.names import OutsideLane
from lifeguard.pool.queue import WaitQueue
from lifeguard.pool.shares import Shares


class Lanes(Protocol):
    """What is asked of the lanes of a pool."""

    normal: Order
    quick: float
    is_plain: bool
    shares: Shares
    refile: Callable[[Lane], None]

    def give_back(self, lease: Holding, now: float, *, succeeded: bool | None) -> Lane | None: ...
    def take(self, lane: Lane, lease: Holding) -> None: ...
    def served(self, name: OutsideLane, now: float) -> None: ...


def note_served(lanes: Lanes, lease: Holding, now: float) -> None:
    """Its borrower, if it has a name from outside, has had what it came for."""
    if lease.place is not None and isinstance(lease.place[0], OutsideLane):
        lanes.served(lease.place[0], now)


class Exchange:
    """Between the lanes of one pool. Times are monotonic seconds."""

    __slots__ = ("_filed", "_lanes", "_normal", "_quick")

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._normal = lanes.normal
        self._filed = lanes.normal.filed
        self._quick = lanes.quick

    def exchange(self, lease: Holding, now: float) -> WaitQueue | None:
        """What a lane holds goes to whoever is next: the queue to hand it to. None if there is more to
        decide: then nothing has changed."""
        # Written out: one that held one connection, and one that held none.
        lane, filed = lease.lane, self._filed
        if not (filed and self._lanes.is_plain) or lane is None or lease.failed or lane.breaker.is_alert:
            return None
        used = lane.in_use
        held = now - lease.borrowed_at
        weight, places = lane.weight, lane.places
        charge = lane.charge + held / weight
        first, place = filed[0], places[NORMAL]
        taker = first[3]
        back = None
        if place is not None:
            back = (used - 1) / weight, charge, lane.number, lane
            if taker is lane or back < first:
                return self._exchange_within(lane, lease, now)
        queue = taker.queues[NORMAL]
        if (
            queue is None
            or not (waiting := queue.length)
            or used != 1
            or taker.in_use
            or taker.kept != lane.kept
        ):
            return self._exchange_with(taker, lane, lease, now)
        lease.lane = taker
        lane.in_use = 0
        taker.in_use = 1  # nothing else changes: what was owed to one is owed to the other
        del filed[0]
        if waiting > 1:
            taker.places[NORMAL] = PARKED
            self._normal.has_parked = True
        else:
            taker.places[NORMAL] = None
            taker.filed -= 1
        if back is not None:
            if place is not PARKED:
                del filed[bisect_left(filed, place)]  # type: ignore[type-var] # it is filed there
            places[NORMAL] = back
            insort(filed, back)
        lane.charge = charge
        lane.returns += 1
        lane.last_return = now
        lane.pace = 2
        lane.credit = 2 if held <= self._quick else 0
        if lane.is_outside:
            note_served(self._lanes, lease, now)
        return queue

    def _exchange_within(self, lane: Lane, lease: Holding, now: float) -> WaitQueue | None:
        """It is its own turn."""
        queue, used = lane.queues[NORMAL], lane.in_use
        if queue is None or not queue.length:
            return None
        if used > 1:
            if self._normal.has_parked and self._filed[0][0]:
                return None
            if used > lane.full and not self._lanes.shares.may_keep(lane):
                return None
        lane.note_success(now - lease.borrowed_at, now, self._quick)
        if lane.places[NORMAL] is not PARKED:
            self._lanes.refile(lane)
        if lane.is_outside:
            note_served(self._lanes, lease, now)
        return queue

    def _exchange_with(self, taker: Lane, lane: Lane, lease: Holding, now: float) -> WaitQueue | None:
        """It is another one's turn."""
        queue, taken = taker.queues[NORMAL], taker.in_use
        if queue is None or not queue.length or (taken and taken >= taker.full):
            return None
        if self._normal.has_parked and self._filed[0][0]:
            return None
        if taken == lane.in_use - 1 and taker.kept == lane.kept:
            lane.note_success(now - lease.borrowed_at, now, self._quick)
            lease.lane = taker
            lane.in_use = taken
            taker.in_use = taken + 1
            self._lanes.refile(lane)
            self._lanes.refile(taker)
        else:
            self._lanes.give_back(lease, now, succeeded=True)
            self._lanes.take(taker, lease)
        if lane.is_outside:
            note_served(self._lanes, lease, now)
        return queue
