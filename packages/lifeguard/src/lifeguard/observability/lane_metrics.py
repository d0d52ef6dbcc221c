"""Metrics of lanes, in a bounded number of series however many lanes there are.

Gauges are told of the busiest lanes, which the pool's statistics name, and of all others as `other`. With
tenants the busiest change, and each name makes series that Prometheus keeps for weeks. So at most
`MOST_NAMES` have some, and one gives its place up only after an hour in which it was not among the busiest.

Sheds are counters and must not fall when a lane drops out of the busiest. The pool counts them by name
itself, for the first names that ever had some (`lifeguard.pool.lane_stats.LaneSheds`). The others of the
busiest are shown with zeros, for an alert needs a number to rise from; not any more when some are counted as
`other`, for theirs may be among those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import monotonic

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from lifeguard.observability.pool_numbers import PoolNumbers
from lifeguard.pool import PRIORITIES, LaneStats

MOST_NAMES = 50
"""Lanes of a pool that have series of their own within an hour."""
OTHER = "other"
_KEPT_FOR = 3600.0
_NOBODY: Mapping[str, int] = {}
_STATES = ("closed", "half_open", "open")
"""Of a lane's breaker, in the order of the metric's numbers."""


class LaneNames:
    """Which lanes of one pool have series of their own. Times are monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}
        """Names, and when each was last among the busiest; that longest ago first."""

    def series_of(self, lane: str) -> str:
        """The name of the series that shows `lane`: its own, or that of all others."""
        if lane == OTHER:
            return OTHER
        now = self._clock()
        if self._seen.pop(lane, None) is None and len(self._seen) >= MOST_NAMES:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] < _KEPT_FOR:
                return OTHER
            del self._seen[oldest]
        self._seen[lane] = now
        return lane


class LaneMetrics:
    """Makes the families of all pools; remembers the names that have series."""

    def __init__(self) -> None:
        self._names: dict[str, LaneNames] = {}

    def families(self, pools: Iterable[PoolNumbers], pool_label: str) -> Iterator[Metric]:
        labels = [pool_label, "lane"]
        used = GaugeMetricFamily("db_pool_lane_used", "Connections that a lane holds.", labels=labels)
        waiting = GaugeMetricFamily("db_pool_lane_waiting", "Borrowers of a lane that wait.", labels=labels)
        state = GaugeMetricFamily(
            "db_pool_lane_breaker_state", "0 closed, 1 half-open, 2 open.", labels=labels
        )
        shed = CounterMetricFamily(
            "db_pool_lane_shed",
            "Borrowers of a lane that were turned away at once.",
            labels=[*labels, "priority"],
        )
        for pool in pools:
            name = pool.stats.name
            shown = self._shown(name, pool.stats.lanes)
            for lane, of_it in shown.items():
                used.add_metric([name, lane], sum(each.used for each in of_it))
                waiting.add_metric([name, lane], sum(each.waiting for each in of_it))
                state.add_metric([name, lane], max(_STATES.index(each.breaker) for each in of_it))
            counted = dict(pool.stats.shed_by_lane)
            zeros = {} if OTHER in counted else dict.fromkeys(shown, _NOBODY)
            for lane, counts in (zeros | counted).items():
                for priority in PRIORITIES:
                    shed.add_metric([name, lane, priority], counts.get(priority, 0))
        yield from (used, waiting, state, shed)

    def _shown(self, pool: str, lanes: Sequence[LaneStats]) -> dict[str, list[LaneStats]]:
        """The lanes by the series that show them. Names may have become alike when they were cut."""
        names = self._names.setdefault(pool, LaneNames())
        shown: dict[str, list[LaneStats]] = {}
        for lane in lanes:
            shown.setdefault(names.series_of(lane.name), []).append(lane)
        return shown
