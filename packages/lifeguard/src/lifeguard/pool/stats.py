"""The pool's counters and histograms, the snapshot made of them, and the metrics that it is told as."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

# Seconds. The bounds of OpenTelemetry's database conventions, with steps added below 5 ms
# because a healthy pool lives there.
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """Durations in seconds. `counts` are per bucket, not cumulative; the last one is above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float
    count: int

    @property
    def median(self) -> float:
        """The bound of the bucket in which half of them are reached; 0 if there are none."""
        seen = 0
        for bound, count in zip((*self.bounds, self.bounds[-1]), self.counts, strict=True):
            seen += count
            if seen * 2 >= self.count > 0:
                return bound
        return 0.0


class Histogram:
    """Durations, counted in fixed buckets."""

    __slots__ = ("_counts", "_fresh", "_sum", "observe")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._fresh: list[float] = []
        self.observe = self._fresh.append
        """`observe(seconds)`. It only keeps the number; `fold()`, called now and then, sorts it in."""

    def fold(self, most: int | None = None) -> int:
        """Sort in what was observed since the last time, the `most` oldest or all; how many those were."""
        durations = sorted(self._fresh[:most])
        del self._fresh[:most]
        self._sum += sum(durations)
        below = 0
        for bucket, bound in enumerate(BOUNDS):
            up_to_bound = bisect_right(durations, bound)
            self._counts[bucket] += up_to_bound - below
            below = up_to_bound
        self._counts[-1] += len(durations) - below
        return len(durations)

    @property
    def count(self) -> int:
        return sum(self._counts) + len(self._fresh)

    def snapshot(self, zeros: int = 0) -> HistogramSnapshot:
        """The counts so far, and `zeros` more durations of nothing."""
        self.fold()
        counts = (self._counts[0] + zeros, *self._counts[1:])
        return HistogramSnapshot(BOUNDS, counts, self._sum, sum(counts))


@dataclass(slots=True)
class Tally:
    """What has happened since the pool was made."""

    lent_at_once: int = 0
    """Borrows that did not wait. Not kept in `wait`, because a counter is cheaper."""
    opened: int = 0
    open_failures: int = 0
    closed: Counter[str] = field(default_factory=Counter)
    resets: int = 0
    timeouts: int = 0
    shed: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    wait: Histogram = field(default_factory=Histogram)
    use: Histogram = field(default_factory=Histogram)
    create: Histogram = field(default_factory=Histogram)

    @property
    def borrowed(self) -> int:
        return self.lent_at_once + self.wait.count

    @property
    def reuse_rate(self) -> float:
        borrowed = self.borrowed
        return max(0.0, 1 - self.opened / borrowed) if borrowed else 0.0

    def counts(self) -> dict[str, Any]:
        """The fields of `PoolStats` that are counted here."""
        return {
            "borrowed": self.borrowed,
            "opened": self.opened,
            "open_failures": self.open_failures,
            "closed": dict(self.closed),
            "resets": self.resets,
            "timeouts": self.timeouts,
            "shed": dict(self.shed),
            "leaks": dict(self.leaks),
            "reuse_rate": self.reuse_rate,
            "wait": self.wait.snapshot(zeros=self.lent_at_once),
            "use": self.use.snapshot(),
            "create": self.create.snapshot(),
        }

    def fold(self, most: int) -> int:
        """Sort in at most so many durations of each kind; how many those were."""
        return sum(histogram.fold(most) for histogram in (self.wait, self.use, self.create))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMetric:
    """How a number of `PoolStats` is told to a monitoring system.

    The names are OpenTelemetry's for what it names, in Prometheus' form, and `db_pool_*` for the rest:
    https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
    """

    kind: Literal["gauge", "counter", "histogram"]
    name: str
    """Without the suffix that its kind brings."""
    text: str
    label: str | None = None
    """A label of its own, besides the pool's name."""
    value: str | None = None
    """The label's value. None: the number is a mapping, and its keys are the values."""
    known: tuple[str, ...] = ()
    """Keys that are there from the start, as zeros: an alert on the first event needs a number that it rises
    from."""


def told_as(*metrics: PoolMetric) -> dict[str, tuple[PoolMetric, ...]]:
    """Metadata of a field of `PoolStats`: the metrics that it is told as."""
    return {"metrics": metrics}


def pool_metrics() -> Iterator[tuple[str, PoolMetric]]:
    """Yield each metric of a pool, and the field of `PoolStats` that has its number."""
    for number in fields(PoolStats):
        for metric in number.metadata.get("metrics", ()):
            yield number.name, metric


def _gauge(name: str, text: str) -> dict[str, tuple[PoolMetric, ...]]:
    return told_as(PoolMetric(kind="gauge", name=name, text=text))


def _counter(
    name: str, text: str, *, by: str | None = None, known: tuple[str, ...] = ()
) -> dict[str, tuple[PoolMetric, ...]]:
    return told_as(PoolMetric(kind="counter", name=name, text=text, label=by, known=known))


def _histogram(name: str, text: str) -> dict[str, tuple[PoolMetric, ...]]:
    return told_as(PoolMetric(kind="histogram", name=name, text=text))


def _connections(state: str) -> PoolMetric:
    text = "Connections now, by all their states; the sum is what the server counts."
    return PoolMetric(kind="gauge", name="db_pool_connections", text=text, label="state", value=state)


def _lendable(state: str) -> PoolMetric:
    """Apart from `_connections()`: OpenTelemetry knows two states only, and their sum must not count more."""
    name, label = "db_client_connection_count", "db_client_connection_state"
    return PoolMetric(kind="gauge", name=name, text="Connections now, by state.", label=label, value=state)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStats:
    """One lane at one moment. Times are seconds."""

    name: str
    """`default` is the lane of those that name none, `newcomers` that of names from outside that are new,
    `other` the sum of all lanes that are not among the busiest."""
    used: int
    """Connections that it holds."""
    waiting: int
    oldest_wait: float
    oldest_use: float
    """How long the oldest of its leases has been held."""
    kept: int
    """Connections that others leave to it."""
    at_most: int | None
    """Its ceiling, if it was given one."""
    shed: Mapping[str, int]
    """Borrowers turned away, by priority."""
    breaker: Literal["closed", "half_open", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """The pool at one moment: gauges of now, counters since it was made.

    A new number is a field here, with the metric that it is told as, and what it counts in `Tally`.
    """

    name: str
    min_size: int = field(metadata=_gauge("db_client_connection_idle_min", "Connections kept open always."))
    max_size: int = field(metadata=_gauge("db_client_connection_max", "Most connections allowed."))
    size: int
    """Live connections: idle, checked, in use and on their way back."""
    idle: int = field(metadata=told_as(_lendable("idle"), _connections("idle")))
    used: int = field(metadata=told_as(_lendable("used"), _connections("used")))
    opening: int = field(metadata=told_as(_connections("opening")))
    closing: int = field(metadata=told_as(_connections("closing")))
    returning: int = field(metadata=told_as(_connections("returning")))
    """Being rolled back or reset after their borrower has gone."""
    validating: int = field(metadata=told_as(_connections("validating")))
    waiting: int = field(
        metadata=_gauge("db_client_connection_pending_requests", "Borrowers in the queue now.")
    )
    oldest_wait: float = field(
        metadata=_gauge("db_pool_oldest_wait_seconds", "What the first in the queue has waited.")
    )
    """Seconds that the head of the queue has waited."""
    standing_queue: float = field(
        metadata=_gauge(
            "db_pool_standing_queue_seconds", "Time since the queue was last empty; 0 while it is."
        )
    )
    """Seconds since the queue was last empty; 0 while it is."""
    utilisation: float
    """`used / max_size`, 0 to 1."""
    borrowed: int
    opened: int = field(metadata=_counter("db_pool_opened", "Connections opened."))
    open_failures: int = field(metadata=_counter("db_pool_open_failures", "Failed attempts to connect."))
    closed: Mapping[str, int] = field(metadata=_counter("db_pool_closed", "Connections closed.", by="reason"))
    """By reason."""
    resets: int = field(metadata=_counter("db_pool_resets", "Sessions reset because they had been changed."))
    timeouts: int = field(
        metadata=_counter(
            "db_client_connection_timeouts", "Borrowers that waited for their whole budget in vain."
        )
    )
    shed: Mapping[str, int] = field(
        metadata=_counter(
            "db_pool_shed",
            "Borrowers turned away at once.",
            by="reason",
            known=("queue_target", "queue_full", "deadline", "stale", "lane_breaker"),
        )
    )
    """By reason."""
    leaks: Mapping[str, int] = field(
        metadata=_counter(
            "db_pool_leaks",
            "Leases overdue, abandoned or nested.",
            by="kind",
            known=("overdue", "abandoned", "nested"),
        )
    )
    """By kind."""
    reuse_rate: float
    """Share of borrows that needed no new connection, 0 to 1."""
    suspended: bool
    closing_down: bool
    """Draining or closed."""
    fault: str | None
    """The class of what is wrong: `no_writable_server`, or why the last attempt to connect failed."""
    last_error: str | None
    """Why the last attempt to open a connection failed; None once one has succeeded."""
    wait: HistogramSnapshot = field(
        metadata=_histogram("db_client_connection_wait_time_seconds", "Time to obtain a connection.")
    )
    use: HistogramSnapshot = field(
        metadata=_histogram("db_client_connection_use_time_seconds", "Time from borrowing to return.")
    )
    create: HistogramSnapshot = field(
        metadata=_histogram("db_client_connection_create_time_seconds", "Time to open a connection.")
    )
    lanes: tuple[LaneStats, ...] = ()
    """The busiest lanes by name and the others together; empty while no lane was ever named."""
    shed_by_lane: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Borrowers turned away since the pool was made, by lane and priority: of the first lanes that had any,
    and of all others as `other`."""

    def summary(self) -> str:
        """One line for error messages."""
        line = f"{self.used} of {self.max_size} in use, {self.idle} idle, {self.waiting} waiting"
        if self.opening:
            line += f", {self.opening} opening"
        if self.last_error:
            line += f"; last attempt to connect failed: {self.last_error}"
        return line
