"""Prometheus metrics: one registry per app, filled at scrape time wherever that is possible.

The HTTP metrics are the instrumentator's (names, labels, help), fed from `lifeguard.web.middleware` and
not from the instrumentator's own middleware. What they cost a request, with 17 routes, as multiples
of the last line (2.6 µs on Python 3.11; the lines were measured in two runs):

    its middleware with its default five metrics       52   it matches every route once more
    its middleware, latency only                       37
    its functions for requests and latency            4.5   they look the labels up each time
    its metrics, the labels looked up once              1   <- this

Pool metrics cost a request nothing: the pool counts anyway, and is read when Prometheus asks.

What a service adds with `prometheus_client.Counter(...)` and its like is in the library's own registry, and
served as well. If such a metric has the name of one of the engine's, the engine's is served, and an event
says so once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import structlog
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import metrics as instrumentator
from typing_extensions import override

from lifeguard.observability.pool_metrics import PoolCollector
from lifeguard.observability.pool_numbers import PoolNumbers

# The bounds of OpenTelemetry's http.server.request.duration, in seconds.
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_log = structlog.get_logger("lifeguard.metrics")
_Metric = TypeVar("_Metric", Counter, Histogram)
_VERSION = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4}){0,2}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The registry of one app: HTTP, pools, event loop, process."""

    def __init__(
        self,
        *,
        target: Mapping[str, str],
        pools: Callable[[], Iterable[PoolNumbers]],
        ready: Callable[[], bool],
        draining: Callable[[], bool],
        in_flight: Callable[[], int],
        loop_lag: Callable[[], float],
    ) -> None:
        """`target` are the labels of `target_info`: what this process is, in OpenTelemetry's names."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside every counter, which nobody reads
        self.registry = _Registry(target_info=dict(target))
        instrumentator.requests(registry=self.registry)
        instrumentator.latency(buckets=_LATENCY_BUCKETS, should_include_status=False, registry=self.registry)
        self._requests = self.registry.only(Counter)
        self._latency = self.registry.only(Histogram)
        self._of_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._stale_answers = Counter(
            "app_stale_answers",
            "Errors that were answered by an older answer.",
            labelnames=["handler"],
            registry=self.registry,
        )
        self._gauge("http_requests_inprogress", "Requests being served now.", in_flight)
        self._gauge("app_ready", "1 while ready or degraded.", ready)
        self._gauge("app_draining", "1 from the signal to stop until the end.", draining)
        self._gauge("event_loop_lag_seconds", "Worst delay of the event loop in 15 seconds.", loop_lag)
        self.registry.register(PoolCollector(pools))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._all = _All(self.registry, REGISTRY)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(read)

    def observe(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Count one answered request. `handler` is the route's template, `none` without a route."""
        requests, latency = self._series(method, handler, status)
        requests.inc()
        latency.observe(seconds)

    def count(self, method: str, handler: str, status: int) -> None:
        """Count a request that was turned away. How long that took says nothing about being served."""
        requests, _ = self._series(method, handler, status)
        requests.inc()

    def _series(self, method: str, handler: str, status: int) -> tuple[Counter, Histogram]:
        """Look labels up once: that costs more than all the rest."""
        key = method, handler, status // 100
        series = self._of_route.get(key)
        if series is None:
            # A client may invent methods, and every label value is a series that stays.
            known = method if method in _METHODS else "other"
            series = (
                self._requests.labels(handler=handler, method=known, status=f"{status // 100}xx"),
                self._latency.labels(handler=handler, method=known),
            )
            if known == method:
                # There from the route's first answer on: failures that all come between two scrapes are
                # seen only as a rise.
                self._requests.labels(handler=handler, method=known, status="5xx")
                self._of_route[key] = series
        return series

    def note_stale_answer(self, handler: str) -> None:
        """Count an older answer of this route's that took the place of an error."""
        self._stale_answers.labels(handler).inc()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the exposition and its content type: OpenMetrics where `accept` asks for it."""
        encode, content_type = choose_encoder(",".join(_readable(accept)))
        return encode(self._all), content_type


def _readable(accept: str) -> Iterator[str]:
    """Yield what of `accept` the library can read: it compares versions as numbers and fails over others."""
    for accepted in accept.split(","):
        stated = (parameter.strip().partition("=") for parameter in accepted.split(";"))
        if all(_VERSION.fullmatch(value) for name, _, value in stated if name == "version"):
            yield accepted


class _All(CollectorRegistry):
    """The metrics of `ours`, and those of `theirs` that have other names."""

    def __init__(self, ours: CollectorRegistry, theirs: CollectorRegistry) -> None:
        super().__init__()
        self._ours = ours
        self._theirs = theirs
        builtin = (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR)  # ours has these of its own
        self._known = {metric.name for collector in builtin for metric in collector.collect()}

    @override
    def collect(self) -> Iterable[Metric]:
        taken: set[str] = set()
        for metric in self._ours.collect():
            taken |= _names(metric)
            yield metric
        for metric in self._theirs.collect():
            if taken.isdisjoint(_names(metric)):
                yield metric
            elif metric.name not in self._known:
                self._known.add(metric.name)
                _log.error(
                    "metric_not_served", metric=metric.name, reason="this service has one of that name"
                )


def _names(metric: Metric) -> set[str]:
    return {metric.name, *(sample.name for sample in metric.samples)}


class _Registry(CollectorRegistry):
    """Knows who has registered with it, for the instrumentator keeps its metrics to itself."""

    def __init__(self, **options: Any) -> None:  # as in prometheus_client
        self._registered: list[Collector] = []
        super().__init__(**options)

    @override
    def register(self, collector: Collector) -> None:
        super().register(collector)
        self._registered.append(collector)

    def only(self, kind: type[_Metric]) -> _Metric:
        (metric,) = (metric for metric in self._registered if isinstance(metric, kind))
        return metric
