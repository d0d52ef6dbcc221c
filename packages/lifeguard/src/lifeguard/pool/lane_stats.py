"""What a pool tells of its lanes: the busiest by name, the others together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from lifeguard.pool.lane import Lane
from lifeguard.pool.names import PRIORITIES, OutsideLane
from lifeguard.pool.stats import LaneStats

MOST_NAMED = 10
"""Lanes that are told by name."""
OTHER = "other"
MOST_COUNTED = 100
"""Lanes whose refusals are counted by name: the first that had any. Counts must never fall, so they stay for
good. Names from outside get no place in the second half, which is for the program's own."""


class LaneSheds:
    """How many were turned away, by lane and priority."""

    def __init__(self) -> None:
        self._by_lane: dict[str, Counter[str]] = {OTHER: Counter()}

    def note(self, lane: Lane, rank: int) -> None:
        name = lane.label
        counts = self._by_lane.get(name)
        if counts is None:
            room = MOST_COUNTED // 2 if isinstance(lane.name, OutsideLane) else MOST_COUNTED
            is_counted = len(self._by_lane) <= room
            counts = self._by_lane.setdefault(name if is_counted else OTHER, Counter())
        counts[PRIORITIES[rank]] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Of all lanes that had any; of those that are not counted by name as `other`."""
        return {name: dict(counts) for name, counts in self._by_lane.items() if counts}

    def of(self, name: str) -> dict[str, int]:
        return dict(self._by_lane.get(name, {}))

    def names(self) -> Iterable[str]:
        return self._by_lane.keys()


def lane_stats(
    lanes: Iterable[Lane], oldest: Mapping[Lane, float], sheds: LaneSheds, now: float
) -> tuple[LaneStats, ...]:
    """The busiest by name, then the others. `oldest`: since when each holds what it has held longest."""
    in_order = sorted(lanes, key=_business, reverse=True)
    named: dict[str, LaneStats] = {}
    others: list[LaneStats] = []
    for lane in in_order:
        one = _of(lane, now - oldest.get(lane, now), sheds, now)
        if one.name in named or one.name == OTHER or len(named) >= MOST_NAMED:
            others.append(one)
        else:
            named[one.name] = one
    if others or sheds.of(OTHER):
        named[OTHER] = _sum(others, sheds)
    return tuple(named.values())


def _business(lane: Lane) -> tuple[int, float]:
    return lane.in_use + lane.waiting, lane.demand


def _of(lane: Lane, oldest_use: float, sheds: LaneSheds, now: float) -> LaneStats:
    return LaneStats(
        name=lane.label,
        used=lane.in_use,
        waiting=lane.waiting,
        oldest_wait=max((queue.oldest_wait(now) for queue in lane.queues if queue is not None), default=0.0),
        oldest_use=oldest_use,
        kept=lane.full,
        at_most=None if lane.at_most == float("inf") else int(lane.at_most),
        shed=sheds.of(lane.label),
        breaker=lane.breaker.state,
    )


def _sum(lanes: list[LaneStats], sheds: LaneSheds) -> LaneStats:
    breakers = {lane.breaker for lane in lanes}
    return LaneStats(
        name=OTHER,
        used=sum(lane.used for lane in lanes),
        waiting=sum(lane.waiting for lane in lanes),
        oldest_wait=max((lane.oldest_wait for lane in lanes), default=0.0),
        oldest_use=max((lane.oldest_use for lane in lanes), default=0.0),
        kept=sum(lane.kept for lane in lanes),
        at_most=None,
        shed=sheds.of(OTHER),
        breaker="open" if "open" in breakers else "half_open" if "half_open" in breakers else "closed",
    )
