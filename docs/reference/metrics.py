"""Each metric, from what a service that has just been made says of itself at `/metrics`."""

from collections.abc import Iterator

from lifeguard.pool import pool_metrics
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric

from docs.reference.made import engine_alone, service
from docs.reference.tables import made, table

OF_THE_PROCESS = ("process_", "python_")
ASIDE = frozenset(("db_client_connection_pool_name", "le"))
"""Labels that the introduction speaks of, or Prometheus."""
OPEN = frozenset(("handler", "method", "status", "service_name", "service_version"))
"""Labels whose values depend on the service."""
SUFFIXES = {"counter": "_total", "info": "_info"}
"""What Prometheus adds to a name."""

POOLS = (
    "All but `db_reads_total` and `db_reads_with_token_total` have the label"
    " `db_client_connection_pool_name`: `primary` or `replica`, and of several replicas `replica-1`,"
    " `replica-2` and so on."
)
INTRODUCTION = """\
`GET /metrics` answers Prometheus text, or OpenMetrics when asked for. What the service's own code makes
with `prometheus_client.Counter` and its like is served too. `/pool` has the pools' numbers as JSON,
`/pool/live` as a page of the last five minutes. All show numbers and states only, to anybody who can reach
them: docs/operations.md#a-port-of-their-own.

`handler` is the route's template, `status` a class: `2xx`, `4xx`, ... Requests that were turned away are in
no duration: they took none. The reasons of `db_pool_closed_total` are in
docs/architecture.md#the-way-of-a-connection. Sheds and leaks are there from the start, as zeros, and a
route's `5xx` from its first answer on; any other series with a label of its own appears with its first
event."""


COLUMNS = ("metric", "kind", "labels", "meaning")


def page() -> str:
    metrics = [metric for metric in exported() if not metric.name.startswith(OF_THE_PROCESS)]
    pools = [metric for metric in metrics if metric.name.startswith("db_")]
    rest = [metric for metric in metrics if metric not in pools]
    others = [(f"`{prefix}*`", "", "", "of the process and the interpreter") for prefix in OF_THE_PROCESS]
    return made(
        "Metrics",
        INTRODUCTION,
        table("Of the pools", COLUMNS, map(_row, pools), POOLS),
        table("Of the service", COLUMNS, [*map(_row, rest), *others]),
    )


def own() -> list[str]:
    """What the service's code adds to the library's registry."""
    service()  # which has imported it
    added = [metric for metric in REGISTRY.collect() if not metric.name.startswith(OF_THE_PROCESS)]
    return [table("Its metrics", COLUMNS, map(_row, added))]


def _row(metric: Metric) -> tuple[str, ...]:
    name = f"{metric.name}{SUFFIXES.get(metric.type, '')}"
    return f"`{name}`", metric.type, ", ".join(_labels(metric)), metric.documentation


def _labels(metric: Metric) -> Iterator[str]:
    """Yield each label, with its values where they are known beforehand."""
    values: dict[str, set[str]] = {}
    for _, known in pool_metrics():
        if known.name == metric.name and known.label:
            values[known.label] = set()
    for sample in metric.samples:
        for label, value in sample.labels.items():
            if label not in ASIDE:
                values.setdefault(label, set()).add(value)
    for label, found in values.items():
        shown = [f"`{value}`" for value in sorted(found)] if label not in OPEN else []
        yield f"`{label}`{': ' if shown else ''}{' '.join(shown)}"


def exported() -> list[Metric]:
    """Give the engine's metrics, as a service has them that has answered one request. It opens nothing."""
    metrics = engine_alone().parts["metrics"]
    metrics.observe("GET", "/", 200, 0.0)
    metrics.note_stale_answer("/")
    return list(metrics.registry.collect())
