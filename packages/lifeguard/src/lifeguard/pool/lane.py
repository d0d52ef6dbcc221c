"""One lane: what it holds, who waits in it, what is kept for it. Data; `Lanes` decides."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import inf, isfinite
from operator import attrgetter
from typing import Protocol

from lifeguard.pool.config import check_count
from lifeguard.pool.lane_breaker import LaneBreaker
from lifeguard.pool.names import PRIORITIES, OutsideLane
from lifeguard.pool.queue import WaitQueue

CRITICAL, NORMAL, BACKGROUND = RANKS = range(len(PRIORITIES))
"""Places in `PRIORITIES`."""
NOT_FILED = -1
"""A level of lanes in which nobody waits."""
# Of lanes that hold as much as each other so many are compared, those that were longest without a turn.
_COMPARED = 16
# Characters of a name that are shown: a log line and a page have to hold it.
_LONGEST_LABEL = 200
_charge = attrgetter("charge")


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


class Holding(Protocol):
    """What a lane may hold: a connection."""

    lane: Lane | None
    """Which holds it; written by `Lanes` alone."""
    borrowed_at: float


class Lane:
    """The state of one lane. Times are monotonic seconds."""

    __slots__ = (
        "at_least",
        "at_most",
        "breaker",
        "charge",
        "credit",
        "demand",
        "filed",
        "floor",
        "full",
        "in_use",
        "is_outside",
        "is_small",
        "last_return",
        "last_seen",
        "levels",
        "make_queue",
        "mean",
        "name",
        "pace",
        "queues",
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
        self.is_small = True
        """It uses so little that what is kept is kept for all such lanes together."""
        self.credit = 0
        """Up to so many it may hold beyond what is kept for it, earned by its own quick returns."""
        self.pace = 0
        """As its credit, but earned by returns in the time that is usual for it, however long that is."""
        self.charge = 0.0
        """Connection-seconds that it has lately had, by its weight."""
        self.last_seen = now
        self.last_return = now
        self.breaker = LaneBreaker(now)
        self.levels = [NOT_FILED for _ in RANKS]
        """Under which level the order of each rank has it."""
        self.filed = 0
        """In how many orders it is."""
        self.limit(UNLIMITED)

    def limit(self, limits: Limits) -> None:
        self.at_most: float = inf if limits.at_most is None else limits.at_most
        self.at_least = limits.at_least
        self.weight = limits.weight

    def queue(self, rank: int) -> WaitQueue:
        """The queue of this rank."""
        queue = self.queues[rank]
        if queue is None:
            queue = self.queues[rank] = self.make_queue(self, rank)
        return queue

    @property
    def label(self) -> str:
        """What it is called for operators, whatever object its name is."""
        if self.name is None:
            return "default"
        try:
            label = str(self.name)
        except Exception:  # noqa: BLE001 - it is asked for where a lease ends, and must not keep it from that
            label = type(self.name).__name__
        return label if len(label) <= _LONGEST_LABEL else f"{label[:_LONGEST_LABEL]}..."

    @property
    def waiting(self) -> int:
        return sum(queue.length for queue in self.queues if queue is not None)

    def has_before(self, rank: int) -> bool:
        """Whether somebody waits in it whom a newcomer of this rank must not pass."""
        for queue in self.queues[: rank + 1]:  # noqa: SIM110 - a generator costs twice as much
            if queue is not None and queue.length:
                return True
        return False


class Order:
    """The lanes in which borrowers of one rank wait, by what they hold."""

    __slots__ = ("_levels", "_rank", "length", "single")

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._levels: list[dict[Lane, None]] = [{}, {}]
        self.length = 0
        """How many lanes there are."""
        self.single: Lane | None = None
        """The only one there is, if that is known. As long as it is, its level need not be right."""

    def has(self, lane: Lane) -> bool:
        return lane.levels[self._rank] != NOT_FILED

    def lanes(self) -> Iterator[Lane]:
        for level in self._levels:
            yield from level

    def file(self, lane: Lane) -> None:
        """Put it last among those of its level."""
        rank, levels = self._rank, self._levels
        before = lane.levels[rank]
        if before == NOT_FILED:
            lane.filed += 1
            self.length += 1
            single, self.single = self.single, None
            if single is not None:
                self.file(single)
            elif self.length == 1:
                self.single = lane
        else:
            del levels[before][lane]
        level = lane.levels[rank] = lane.in_use if lane.weight == 1 else int(lane.in_use / lane.weight)
        while len(levels) <= level:
            levels.append({})
        levels[level][lane] = None

    def move(self, lane: Lane) -> None:
        """It holds more or less than before; it goes if nobody waits there any more."""
        rank = self._rank
        if lane.levels[rank] != NOT_FILED:
            queue = lane.queues[rank]
            if queue is None or not queue.length:
                self.remove(lane)
            elif self.length == 1:
                self.single = lane
            else:
                self.file(lane)

    def remove(self, lane: Lane) -> None:
        level = lane.levels[self._rank]
        if level == NOT_FILED:
            return
        del self._levels[level][lane]
        lane.levels[self._rank] = NOT_FILED
        lane.filed -= 1
        self.length -= 1
        self.single = None

    def first(self, may_take: Callable[[Lane, int], bool]) -> Lane | None:
        """Of those that may take one, the lane that holds least; of equals, which has lately had least."""
        rank = self._rank
        if self.length == 1:
            single = self.single
            if single is None:
                single = self.single = next(self.lanes())
            return single if may_take(single, rank) else None
        for lanes in self._levels:
            if not lanes:
                continue
            best = next(iter(lanes)) if len(lanes) == 1 else min(islice(lanes, _COMPARED), key=_charge)
            if may_take(best, rank):
                return best
            if len(lanes) == 1:
                continue
            others = (lane for lane in lanes if lane is not best and may_take(lane, rank))
            best_of_others = min(islice(others, _COMPARED), key=_charge, default=None)
            if best_of_others is not None:
                return best_of_others
        return None
