"""Prometheus metrics: one registry per app, filled at scrape time wherever that is possible.

The HTTP metrics are the instrumentator's (names, labels, help), fed from `app.web.middleware` and
not from the instrumentator's own middleware. CPU time per request, 17 routes, Python 3.11:

    the instrumentator's middleware, latency only      41 µs   it matches every route once more
    ... with its default set of five metrics           58 µs
    requests and latency, from our middleware           5 µs   <- this
    the default set, from our middleware               14 µs   sizes, and the latency once more

Pool metrics cost a request nothing: the pool counts anyway, and is read when Prometheus asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_fastapi_instrumentator import metrics as instrumentator
from starlette.requests import Request

from app.observability.numbers import PoolNumbers
from app.observability.pool_metrics import PoolCollector

# The bounds of OpenTelemetry's http.server.request.duration, in seconds.
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The registry of one app: HTTP, pools, event loop, process."""

    def __init__(
        self,
        *,
        pools: Callable[[], Iterable[PoolNumbers]],
        draining: Callable[[], bool],
        in_flight: Callable[[], int],
        loop_lag: Callable[[], float],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside every counter, which nobody reads
        self.registry = CollectorRegistry()
        self._observers = [
            observer
            for observer in (
                instrumentator.requests(registry=self.registry),
                instrumentator.latency(
                    buckets=_LATENCY_BUCKETS, should_include_status=False, registry=self.registry
                ),
            )
            if observer
        ]
        self._gauge("http_requests_inprogress", "HTTP requests being served.", in_flight)
        self._gauge("app_draining", "1 from the signal to stop until the end.", draining)
        self._gauge("event_loop_lag_seconds", "Worst delay of the event loop in 15 seconds.", loop_lag)
        self.registry.register(PoolCollector(pools))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(name, text, registry=self.registry).set_function(read)

    def observe(self, request: Request, handler: str, status: int, seconds: float) -> None:
        """Count one answered request. `handler` is the route's template, `none` without a route."""
        info = instrumentator.Info(
            request=request,
            response=None,
            # A client may invent methods, and every label value is a series that stays.
            method=request.method if request.method in _METHODS else "other",
            modified_handler=handler,
            modified_status=f"{status // 100}xx",
            modified_duration=seconds,
        )
        for observe in self._observers:
            observe(info)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the exposition and its content type: OpenMetrics where `accept` asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
