"""A pool in virtual time: the pool's own queues and decisions, and requests that are numbers.

Clients come at random and do not come again (an open loop); a connection is held for as long as the request
says, longer while the lane's table is locked.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, cast

from lifeguard.pool.lane import NORMAL, RANKS, Lane
from lifeguard.pool.lanes import Lanes
from lifeguard.pool.names import OutsideLane
from lifeguard.pool.queue import Total, WaitQueue
from lifeguard.pool.stats import Histogram

TARGET = 0.25
MAX_WAITING = 1000
LOCK_TIMEOUT = 3.0
HOLD = 0.010
DEADLINE = 5.0
NEVER = math.inf


@dataclass(slots=True)
class Request:
    """What a client asked for, and what came of it. Times are seconds."""

    at: float
    lane: Hashable
    hold: float
    rank: int = NORMAL
    deadline: float = DEADLINE
    wait: float = math.nan
    held: float = 0.0
    end: str = ""
    """`served`, `lock timeout`, or why it was refused."""

    @property
    def in_time(self) -> bool:
        return self.end == "served" and self.wait + self.held <= self.deadline


@dataclass(frozen=True, slots=True)
class Lock:
    """A table that nobody of the lane gets past."""

    lane: Hashable
    start: float
    end: float


class Place:
    """In a queue: as much of a future as the queue needs."""

    __slots__ = ("_done", "_on_error", "_on_result", "request")

    def __init__(
        self, on_result: Callable[[Request, Held | None], None], on_error: Callable[[Request], None]
    ) -> None:
        self.request: Request
        self._done = False
        self._on_result = on_result
        self._on_error = on_error

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return self._done

    def cancel(self) -> None:
        self._done = True

    def set_result(self, held: Held | None) -> None:
        self._done = True
        self._on_result(self.request, held)

    def set_exception(self, _: object) -> None:
        self._done = True
        self._on_error(self.request)


@dataclass(slots=True, eq=False)
class Held:
    """A connection, while a lane holds it."""

    borrowed_at: float
    lane: Lane | None = None
    place: tuple[Hashable, int] | None = None
    failed: bool = False


@dataclass
class Simulation:
    """`size` connections and the requests that come to them."""

    size: int
    locks: Iterable[Lock] = ()
    most_lanes: int = 0
    now: float = 0.0
    total: Total = field(default_factory=Total)

    def __post_init__(self) -> None:
        self._held: set[Held] = set()
        self.lanes = Lanes(self.size, TARGET, self.total, self._make_queue, self._held)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._refusal = "stale"
        self._lane_served: Lane

    def _make_queue(self, lane: Lane, rank: int) -> WaitQueue:
        def start(request: Request, held: Held | None) -> None:
            self._start(lane, request, held)

        def refuse(request: Request) -> None:
            self._refuse(lane, request, self._refusal)

        target = self.lanes.target(rank)
        queue = WaitQueue(
            target,
            Histogram(),
            time_out=_no_error,
            turn_away=ValueError,
            serving=lambda: self.lanes.shares.at_once(lane),
            total=self.total,
        )
        queue.create_future = cast("Callable[[], Any]", lambda: Place(start, refuse))
        return queue

    def run(self, requests: list[Request]) -> list[Request]:
        """Let them come; the same requests, each with its end."""
        requests.sort(key=lambda request: request.at)
        coming = iter(requests)
        arrival = next(coming, None)
        while arrival is not None or self._events:
            at = arrival.at if arrival is not None else NEVER
            event = self._events[0][0] if self._events else NEVER
            if self.total.waiting and self.lanes.tick_at < min(at, event):
                self.now = self.lanes.tick_at
                self._tick()
            elif arrival is not None and at <= event:
                self.now = at
                self._arrive(arrival)
                arrival = next(coming, None)
            else:
                self.now, _, happen = heappop(self._events)
                happen()
        return requests

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heappush(self._events, (self.now + seconds, next(self._numbers), happen))

    def _arrive(self, request: Request) -> None:
        lanes = self.lanes
        lane = lanes.find(request.lane, self.now)
        self.most_lanes = max(self.most_lanes, len(lanes))
        rank = request.rank
        if lanes.shares.free and lanes.may_take_now(lane, rank):
            self._start(lane, request)
            return
        objection = lanes.objection(lane, rank, self.now, request.deadline, MAX_WAITING)
        if objection is not None:
            self._refuse(lane, request, objection)
            return
        queue = lane.queue(rank)
        place = cast("Place", queue.join(self.now, NEVER))
        place.request = request
        lanes.joined(lane, rank)
        self._after(request.deadline, lambda: self._give_up(lane, queue, place))
        if self.now >= lanes.tick_at:
            self._tick()

    def _start(self, lane: Lane, request: Request, held: Held | None = None) -> None:
        """`held`: it was handed to the lane already."""
        request.wait = self.now - request.at
        hold, works = request.hold, True
        for lock in self.locks:
            if request.lane == lock.lane and lock.start <= self.now < lock.end:
                left = lock.end - self.now
                works = left <= LOCK_TIMEOUT
                hold = left + hold if works else LOCK_TIMEOUT
        request.held = hold
        request.end = "served" if works else "lock timeout"
        taken = held or Held(self.now)
        if held is None:
            self._held.add(taken)
            self.lanes.take(lane, taken)
        self._after(hold, lambda: self._give_back(taken, request))

    def _give_back(self, held: Held, request: Request) -> None:
        works = request.end == "served"
        held.failed = not works
        queue = self.lanes.exchange(held, self.now)
        if queue is not None:
            held.borrowed_at = self.now
            if not queue.hand_out(cast("Any", held), self.now):
                self.lanes.undo(held)
        else:
            self.lanes.give_back(held, self.now, succeeded=works)
        if held.lane is None:
            self._held.discard(held)
        if works and isinstance(request.lane, OutsideLane):
            self.lanes.served(request.lane, self.now)
        if self.now >= self.lanes.tick_at:
            self._tick()
        else:
            self._dispatch()

    def _dispatch(self) -> None:
        lanes = self.lanes
        while lanes.shares.free > 0 and (turn := lanes.next_turn()) is not None:
            lane, rank = turn
            if lane.queue(rank).hand_out(cast("Any", None), self.now):
                lanes.handed_out(rank)
            else:
                lanes.pass_over(lane, rank)

    def _tick(self) -> None:
        for lane in self.lanes.tick(self.now):
            self._refusal = "lane_breaker"
            for rank in RANKS:
                lane.queue(rank).refuse_all(ValueError)
            self._refusal = "stale"
        self._dispatch()

    def _give_up(self, lane: Lane, queue: WaitQueue, place: Place) -> None:
        if not place.done():
            queue.leave(cast("Any", place))
            self._refuse(lane, place.request, "timeout")

    def _refuse(self, lane: Lane, request: Request, why: str) -> None:
        request.end = why
        lane.breaker.refused()


def _no_error(_: bool) -> Exception:
    return ValueError()


# -- who comes -------------------------------------------------------------------------------------


def stream(
    dice: random.Random,
    rate: float,
    lane: Hashable | Callable[[], Hashable],
    *,
    start: float = 0.0,
    end: float,
    hold: float = HOLD,
    rank: int = NORMAL,
    deadline: float = DEADLINE,
) -> list[Request]:
    """Requests at random, `rate` a second; their holds are log-normal around `hold`."""
    requests = []
    at = start
    while (at := at + dice.expovariate(rate)) < end:
        name = lane() if callable(lane) else lane
        requests.append(Request(at, name, _log_normal(dice, hold), rank, deadline))
    return requests


def _log_normal(dice: random.Random, mean: float, spread: float = 0.4) -> float:
    return dice.lognormvariate(math.log(mean) - spread * spread / 2, spread)


# -- what came of it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of some of the requests."""

    success: float
    """Percent that were served within their deadlines."""
    p99: float
    """Milliseconds that those served have waited."""
    longest: float
    served: int
    connections: float
    """Connection-seconds."""


def outcome(requests: Iterable[Request], *, start: float = 0.0, end: float = NEVER) -> Outcome:
    """Of those that came between `start` and `end`."""
    chosen = [request for request in requests if start <= request.at < end]
    in_time = sum(request.in_time for request in chosen)
    waits = sorted(request.wait for request in chosen if request.end == "served")
    return Outcome(
        success=100 * in_time / len(chosen),
        p99=1000 * waits[min(len(waits) - 1, int(0.99 * len(waits)))] if waits else math.nan,
        longest=1000 * waits[-1] if waits else math.nan,
        served=in_time,
        connections=sum(request.held for request in chosen),
    )
