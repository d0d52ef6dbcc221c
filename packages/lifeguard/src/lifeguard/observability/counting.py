"""The metrics, whose library is imported when the first request has been answered, or somebody asks for them.

It is no part of the start: a process that is woken by a request imports it after the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Unpack

from typing_extensions import TypedDict

from lifeguard.observability.pool_numbers import PoolNumbers

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from lifeguard.observability import metrics


class Sources(TypedDict):
    """Where `lifeguard.observability.metrics` has its numbers from."""

    target: Mapping[str, str]
    pools: Callable[[], Iterable[PoolNumbers]]
    ready: Callable[[], bool]
    draining: Callable[[], bool]
    in_flight: Callable[[], int]
    loop_lag: Callable[[], float]


class Metrics:
    """What counts requests, and renders all numbers of one app."""

    def __init__(self, **sources: Unpack[Sources]) -> None:
        """`target` are the labels of `target_info`: what this process is, in OpenTelemetry's names."""
        self._sources = sources
        self._registered: metrics.Metrics | None = None

    def observe(self, method: str, handler: str, status: int, seconds: float) -> None:
        """Count one answered request. `handler` is the route's template, `none` without a route."""
        self._made().observe(method, handler, status, seconds)

    def count(self, method: str, handler: str, status: int) -> None:
        """Count a request that was turned away. How long that took says nothing about being served."""
        self._made().count(method, handler, status)

    def note_stale_answer(self, handler: str) -> None:
        """Count an older answer of this route's that took the place of an error."""
        self._made().note_stale_answer(handler)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the exposition and its content type: OpenMetrics where `accept` asks for it."""
        return self._made().render(accept)

    @property
    def registry(self) -> CollectorRegistry:
        """What is served besides the library's own registry."""
        return self._made().registry

    def _made(self) -> metrics.Metrics:
        if self._registered is None:
            from lifeguard.observability import metrics  # noqa: PLC0415 - above it says why

            self._registered = metrics.Metrics(**self._sources)
        return self._registered
