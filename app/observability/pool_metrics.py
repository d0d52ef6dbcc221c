"""The pools' metrics: OpenTelemetry's names for what it names, `db_pool_*` for the rest.

https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.observability.numbers import BREAKER_STATES, PoolNumbers
from app.pool import HistogramSnapshot

_POOL = "db_client_connection_pool_name"
_STATE = "db_client_connection_state"
_STATES = ("idle", "used", "validating", "returning", "opening", "closing")
# There from the start, as zeros: an alert on the first event needs a number that it rises from.
_SHED_REASONS = ("queue_target", "queue_full", "deadline", "stale")
_LEAK_KINDS = ("overdue", "abandoned", "nested")


class PoolCollector(Collector):
    """Reads the pools' statistics when Prometheus scrapes, and keeps nothing in between."""

    def __init__(self, pools: Callable[[], Iterable[PoolNumbers]]) -> None:
        self._pools = pools

    def describe(self) -> Iterable[Metric]:
        return _families([])

    def collect(self) -> Iterable[Metric]:
        return _families(list(self._pools()))


def _families(pools: list[PoolNumbers]) -> Iterator[Metric]:
    yield from _gauges(pools)
    yield from _counters(pools)
    yield from _histograms(pools)
    yield from _breaker(pools)


def _gauges(pools: list[PoolNumbers]) -> Iterator[Metric]:
    count = GaugeMetricFamily("db_client_connection_count", "Connections by state.", labels=[_POOL, _STATE])
    for pool in pools:
        count.add_metric([pool.stats.name, "idle"], pool.stats.idle)
        count.add_metric([pool.stats.name, "used"], pool.stats.used)
    yield count
    # Apart from the above, which knows these two states only: who sums over its states must not count more.
    sessions = GaugeMetricFamily(
        "db_pool_connections", "Sessions by all their states.", labels=[_POOL, "state"]
    )
    for pool in pools:
        for state in _STATES:
            sessions.add_metric([pool.stats.name, state], getattr(pool.stats, state))
    yield sessions
    for name, text, attribute in (
        ("db_client_connection_max", "Most connections allowed.", "max_size"),
        ("db_client_connection_idle_min", "Connections kept open.", "min_size"),
        ("db_client_connection_pending_requests", "Borrowers in the queue.", "waiting"),
        ("db_pool_oldest_wait_seconds", "What the first in the queue has waited.", "oldest_wait"),
        ("db_pool_standing_queue_seconds", "Time since the queue was last empty.", "standing_queue"),
    ):
        gauge = GaugeMetricFamily(name, text, labels=[_POOL])
        for pool in pools:
            gauge.add_metric([pool.stats.name], getattr(pool.stats, attribute))
        yield gauge


def _counters(pools: list[PoolNumbers]) -> Iterator[Metric]:
    for name, text, attribute in (
        ("db_client_connection_timeouts", "Borrowers who waited in vain.", "timeouts"),
        ("db_pool_opened", "Connections opened.", "opened"),
        ("db_pool_open_failures", "Failed attempts to connect.", "open_failures"),
        ("db_pool_resets", "Resets of a changed session.", "resets"),
    ):
        counter = CounterMetricFamily(name, text, labels=[_POOL])
        for pool in pools:
            counter.add_metric([pool.stats.name], getattr(pool.stats, attribute))
        yield counter
    for name, text, label, attribute, known in (
        ("db_pool_shed", "Borrowers turned away at once.", "reason", "shed", _SHED_REASONS),
        ("db_pool_closed", "Connections closed.", "reason", "closed", ()),
        ("db_pool_leaks", "Leases overdue, abandoned or nested.", "kind", "leaks", _LEAK_KINDS),
    ):
        counter = CounterMetricFamily(name, text, labels=[_POOL, label])
        for pool in pools:
            counts: Mapping[str, int] = dict.fromkeys(known, 0) | getattr(pool.stats, attribute)
            for value, number in counts.items():
                counter.add_metric([pool.stats.name, value], number)
        yield counter


def _histograms(pools: list[PoolNumbers]) -> Iterator[Metric]:
    for name, text, attribute in (
        ("db_client_connection_create_time_seconds", "Time to open a connection.", "create"),
        ("db_client_connection_wait_time_seconds", "Time to obtain a connection.", "wait"),
        ("db_client_connection_use_time_seconds", "Time from borrowing to return.", "use"),
    ):
        histogram = HistogramMetricFamily(name, text, labels=[_POOL])
        for pool in pools:
            snapshot: HistogramSnapshot = getattr(pool.stats, attribute)
            histogram.add_metric([pool.stats.name], _cumulative(snapshot), snapshot.sum)
        yield histogram


def _cumulative(snapshot: HistogramSnapshot) -> list[tuple[str, float]]:
    bounds = [*map(str, snapshot.bounds), "+Inf"]
    return list(zip(bounds, accumulate(snapshot.counts), strict=True))


def _breaker(pools: list[PoolNumbers]) -> Iterator[Metric]:
    state = GaugeMetricFamily("db_pool_breaker_state", "0 closed, 1 half-open, 2 open.", labels=[_POOL])
    transitions = CounterMetricFamily(
        "db_pool_breaker_transitions", "Times the breaker entered a state.", labels=[_POOL, "to"]
    )
    for pool in pools:
        state.add_metric([pool.stats.name], BREAKER_STATES.index(pool.breaker.state))
        for to in BREAKER_STATES:
            transitions.add_metric([pool.stats.name, to], pool.breaker.transitions.get(to, 0))
    yield state
    yield transitions
