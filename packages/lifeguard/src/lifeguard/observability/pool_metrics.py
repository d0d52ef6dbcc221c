"""The pools' metrics, as `PoolStats` names them, and those of the breakers in front of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lifeguard.observability.lane_metrics import LaneMetrics
from lifeguard.observability.pool_numbers import BREAKER_STATES, STANDINGS, PoolNumbers
from lifeguard.pool import HistogramSnapshot, PoolMetric, pool_metrics

_POOL = "db_client_connection_pool_name"
_KINDS: dict[str, type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class PoolCollector(Collector):
    """Reads the pools' statistics when Prometheus scrapes; keeps only which lanes have series."""

    def __init__(self, pools: Callable[[], Iterable[PoolNumbers]]) -> None:
        self._pools = pools
        self._lanes = LaneMetrics()

    def describe(self) -> Iterable[Metric]:
        return self._families([])

    def collect(self) -> Iterable[Metric]:
        return self._families(list(self._pools()))

    def _families(self, pools: list[PoolNumbers]) -> Iterator[Metric]:
        yield from _families(pools)
        yield from self._lanes.families(pools, _POOL)


def _families(pools: list[PoolNumbers]) -> Iterator[Metric]:
    families: dict[str, Metric] = {}
    for attribute, metric in pool_metrics():
        family = families.setdefault(metric.name, _family(metric))
        for pool in pools:
            _add(family, metric, pool.stats.name, getattr(pool.stats, attribute))
    yield from families.values()
    yield from _breaker(pools)
    yield from _reads(pools)
    yield from _fleet(pools)


def _family(metric: PoolMetric) -> Metric:
    labels = [_POOL] if metric.label is None else [_POOL, metric.label]
    return _KINDS[metric.kind](metric.name, metric.text, labels=labels)


def _add(family: Metric, metric: PoolMetric, pool: str, number: Any) -> None:  # Any: a field of PoolStats
    if isinstance(family, HistogramMetricFamily):
        family.add_metric([pool], _cumulative(number), number.sum)
        return
    assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
    if metric.label is None:
        family.add_metric([pool], number)
        return
    counts = dict.fromkeys(metric.known, 0) | number if metric.value is None else {metric.value: number}
    for value, count in counts.items():
        family.add_metric([pool, value], count)


def _cumulative(snapshot: HistogramSnapshot) -> list[tuple[str, float]]:
    bounds = [*map(str, snapshot.bounds), "+Inf"]
    return list(zip(bounds, accumulate(snapshot.counts), strict=True))


def _breaker(pools: list[PoolNumbers]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "db_pool_breaker_state", "The breaker: 0 closed, 1 half-open, 2 open.", labels=[_POOL]
    )
    transitions = CounterMetricFamily(
        "db_pool_breaker_transitions", "How often the breaker entered a state.", labels=[_POOL, "to"]
    )
    for pool in pools:
        state.add_metric([pool.stats.name], BREAKER_STATES.index(pool.breaker.state))
        for to in BREAKER_STATES:
            transitions.add_metric([pool.stats.name, to], pool.breaker.transitions.get(to, 0))
    yield state
    yield transitions


def _fleet(pools: list[PoolNumbers]) -> Iterator[Metric]:
    texts = {
        "instances": "Processes that share the server (POOL_INSTANCES=auto); 0 while not known.",
        "share": "Connections that are due to each process's pool; db_client_connection_max is what it may"
        " have now.",
        "places": "Most processes that can share the server.",
    }
    for attribute, text in texts.items():
        family = GaugeMetricFamily(f"db_pool_{attribute}", text, labels=[_POOL])
        for pool in pools:
            if pool.fleet is not None:
                family.add_metric([pool.stats.name], getattr(pool.fleet, attribute))
        yield family


def _reads(pools: list[PoolNumbers]) -> Iterator[Metric]:
    reads = CounterMetricFamily(
        "db_reads", "Connections borrowed to read, by the pool that lent them.", labels=["to"]
    )
    with_token = CounterMetricFamily(
        "db_reads_with_token",
        "Reads that had to see a write: served by a replica, by one after they had waited, by the primary, or"
        " of a write that was lost.",
        labels=["outcome"],
    )
    serves = GaugeMetricFamily("db_replica_serves", "1 while reads go to the replica.", labels=[_POOL])
    standing = GaugeMetricFamily(
        "db_replica_standing", "1 for what the replica was last found to be.", labels=[_POOL, "standing"]
    )
    repeated = CounterMetricFamily(
        "db_reads_repeated",
        "Reads that the replica has cancelled (recovery conflicts) and the primary has answered.",
        labels=[_POOL],
    )
    lag = GaugeMetricFamily(
        "db_replica_lag_seconds",
        "How far the replica is behind the primary; absent while that is not known.",
        labels=[_POOL],
    )
    size = GaugeMetricFamily(
        "db_replica_lag_bytes",
        "How much WAL the replica has less than the primary; absent while that is not known.",
        labels=[_POOL],
    )
    for pool in pools:
        reads.add_metric([pool.stats.name], pool.reads)
        for outcome, number in pool.reads_with_token.items():
            with_token.add_metric([outcome], number)
        if pool.replica is None:
            continue
        name = pool.stats.name
        serves.add_metric([name], pool.replica.serves)
        repeated.add_metric([name], pool.replica.repeated)
        for one in STANDINGS:
            standing.add_metric([name, one], pool.replica.standing == one)
        if pool.replica.lag_seconds is not None:
            lag.add_metric([name], pool.replica.lag_seconds)
        if pool.replica.lag_bytes is not None:
            size.add_metric([name], pool.replica.lag_bytes)
    yield from (reads, with_token, repeated, serves, standing, lag, size)
