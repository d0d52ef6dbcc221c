"""One lane: what it holds, who waits in it, what is kept for it. Data; `Lanes` decides."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from math import inf, isfinite
from typing import Protocol, TypeAlias, cast

from lifeguard.pool.config import check_count
from lifeguard.pool.lane_breaker import LaneBreaker
from lifeguard.pool.names import PRIORITIES, OutsideLane
from lifeguard.pool.queue import WaitQueue

CRITICAL, NORMAL, BACKGROUND = RANKS = range(len(PRIORITIES))
"""Places in `PRIORITIES`."""
# Seconds after its last borrower that a lane is forgotten.
_FORGOTTEN_AFTER = 5.0
# Characters of a name that are shown: a log line and a page have to hold it.
_LONGEST_LABEL = 200
_numbers = count()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a lane was given by its owner. Raises ValueError or TypeError for what cannot be kept."""

    at_most: int | None = None
    at_least: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_count("at_least", self.at_least)
        if self.at_most is not None:
            check_count("at_most", self.at_most)
            if self.at_most < max(1, self.at_least):
                raise ValueError(
                    f"at_most must be at least 1 and at_least ({self.at_least}), got {self.at_most}"
                )
        if isinstance(self.weight, bool) or not isinstance(self.weight, (int, float)):
            raise TypeError(f"weight must be a number, got {self.weight!r}")
        if not (isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight must be above 0 and finite, got {self.weight!r}")


UNLIMITED = Limits()


def label_of(name: Hashable) -> str:
    """What a lane of this name is called for operators, whatever object it is."""
    if name is None:
        return "default"
    try:
        label = str(name)
    except Exception:  # noqa: BLE001 - it is asked for where a lease ends, and must not keep it from that
        label = type(name).__name__
    return label if len(label) <= _LONGEST_LABEL else f"{label[:_LONGEST_LABEL]}..."


class Holding(Protocol):
    """What a lane may hold: a connection."""

    lane: Lane | None
    """Which holds it; written by `Lanes` alone."""
    borrowed_at: float
    place: tuple[Hashable, int] | None
    """What its borrower has named."""
    failed: bool
    """It did not work, or not in time."""


class Lane:
    """The state of one lane. Times are monotonic seconds."""

    __slots__ = (
        "at_least",
        "at_most",
        "breaker",
        "charge",
        "charge_told",
        "credit",
        "demand",
        "filed",
        "floor",
        "full",
        "in_use",
        "is_outside",
        "is_small",
        "kept",
        "last_return",
        "last_seen",
        "make_queue",
        "mean",
        "name",
        "number",
        "pace",
        "places",
        "queues",
        "returns",
        "weight",
    )

    def __init__(self, name: Hashable, now: float, make_queue: Callable[[Lane, int], WaitQueue]) -> None:
        self.name = name
        self.make_queue = make_queue
        self.queues: list[WaitQueue | None] = [None for _ in RANKS]
        """By rank; made when the first has to wait."""
        self.is_outside = isinstance(name, OutsideLane)
        """Its borrowers have names from outside."""
        self.in_use = 0
        """Connections that it holds."""
        self.demand = 0.0
        """Connections that it has lately used or waited for, on average."""
        self.floor = 0
        """What it was promised, as far as the promises can be kept."""
        self.full = self.mean = 0
        """Connections kept for it: from lanes without credit, and from those with it."""
        self.kept: tuple[int, int] | None = None
        """Both of them; None of a small lane."""
        self.is_small = True
        """It uses so little that what is kept is kept for all such lanes together."""
        self.credit = 0
        """Up to so many it may hold beyond what is kept for it, earned by its own quick returns."""
        self.pace = 0
        """As its credit, but earned by returns in the time that is usual for it, however long that is."""
        self.charge = 0.0
        """Connection-seconds that it has lately had, by its weight."""
        self.charge_told = 0.0
        """What of them the breaker need not hear of any more."""
        self.last_seen = now
        self.last_return = now
        self.returns = 0
        """Successes that the breaker has not heard of yet."""
        self.breaker = LaneBreaker(now)
        self.number = next(_numbers)
        """No two lanes have the same."""
        self.places: list[Filed | None] = [None for _ in RANKS]
        """Where the order of each rank has it."""
        self.filed = 0
        """In how many orders it is."""
        self.limit(UNLIMITED)

    def limit(self, limits: Limits) -> None:
        self.at_most: float = inf if limits.at_most is None else limits.at_most
        self.at_least = limits.at_least
        self.weight = limits.weight

    def may_be_forgotten(self, now: float) -> bool:
        """Whether nobody has come for long, if none holds a connection or waits."""
        return now - self.last_seen > _FORGOTTEN_AFTER and not self.at_least

    def note_success(self, held: float, now: float, quick: float) -> None:
        """A connection of its comes back after so many seconds, and has worked. It may have one more than it
        had if that was quick."""
        self.charge += held / self.weight
        self.returns += 1
        self.last_return = now
        self.pace = pace = self.in_use + 1
        self.credit = pace if held <= quick else 0

    def note_failure(self, held: float, now: float) -> None:
        """It has not worked, or not in time."""
        self.tell_breaker()
        self.charge += held / self.weight
        self.charge_told = self.charge
        self.last_return = now
        self.credit = 0
        self.pace = 0

    def tell_breaker(self) -> None:
        """Of the successes that it has not heard of, before anything else happens to the lane."""
        if self.returns:
            held = (self.charge - self.charge_told) * self.weight / self.returns
            self.breaker.learn(held, self.last_return, self.returns)
            self.returns = 0
        self.charge_told = self.charge

    def queue(self, rank: int) -> WaitQueue:
        """The queue of this rank."""
        queue = self.queues[rank]
        if queue is None:
            queue = self.queues[rank] = self.make_queue(self, rank)
        return queue

    @property
    def label(self) -> str:
        """What it is called for operators."""
        return label_of(self.name)

    @property
    def waiting(self) -> int:
        return sum(queue.length for queue in self.queues if queue is not None)

    def has_before(self, rank: int) -> bool:
        """Whether somebody waits in it whom a newcomer of this rank must not pass."""
        for queue in self.queues[: rank + 1]:  # noqa: SIM110 - a generator costs twice as much
            if queue is not None and queue.length:
                return True
        return False


Filed: TypeAlias = tuple[float, float, int, Lane]
"""What a lane holds, by its weight, and has lately had, when it was filed; its number, so that no two are
alike; the lane."""
PARKED = cast("Filed", ())
"""In place of where it is filed: it waits and holds one connection. Lanes that hold none come first."""


class Order:
    """The lanes in which borrowers of one rank wait: first the one that holds least, of equals the one that
    has lately had least. A single one, if none is parked, is where it was filed, whatever it holds by now."""

    __slots__ = ("_holdings", "_rank", "filed", "has_parked")

    def __init__(self, rank: int, holdings: Iterable[Holding]) -> None:
        """`holdings` are all that lanes hold, and others."""
        self._rank = rank
        self._holdings = holdings
        self.filed: list[Filed] = []
        self.has_parked = False
        """There may be lanes that are parked."""

    def has(self, lane: Lane) -> bool:
        return lane.places[self._rank] is not None

    def lanes(self) -> Iterator[Lane]:
        self._unpark()
        return (place[3] for place in self.filed)

    def file(self, lane: Lane) -> None:
        """Put it where it belongs now."""
        rank, filed = self._rank, self.filed
        place = lane.places[rank]
        if place is None:
            lane.filed += 1
        if place is None or place is PARKED:
            if len(filed) == 1:
                self.file(filed[0][3])
        else:
            del filed[bisect_left(filed, place)]
        place = lane.places[rank] = (lane.in_use / lane.weight, lane.charge, lane.number, lane)
        insort(filed, place)

    def move(self, lane: Lane) -> None:
        """It holds more or less than before; it goes if nobody waits there any more."""
        rank = self._rank
        place = lane.places[rank]
        if place is not None:
            queue = lane.queues[rank]
            if queue is None or not queue.length:
                self.remove(lane)
            elif len(self.filed) > 1 or self.has_parked:
                self.file(lane)

    def remove(self, lane: Lane) -> None:
        place = lane.places[self._rank]
        if place is None:
            return
        if place is not PARKED:
            del self.filed[bisect_left(self.filed, place)]
        lane.places[self._rank] = None
        lane.filed -= 1

    def file_all(self) -> None:
        """What lanes have lately had counts for less by now."""
        if len(self.filed) > 1 or self.has_parked:
            for _, _, _, lane in list(self.filed):
                self.file(lane)

    def _unpark(self) -> None:
        if self.has_parked:
            self.has_parked = False
            for holding in self._holdings:
                lane = holding.lane
                if lane is not None and lane.places[self._rank] is PARKED:
                    self.file(lane)

    def first(self, may_take: Callable[[Lane, int], bool]) -> Lane | None:
        """Of those that may take one."""
        rank, filed = self._rank, self.filed
        if self.has_parked and (not filed or filed[0][0]):
            self._unpark()
        for place in filed:
            if may_take(place[3], rank):
                return place[3]
        return None
