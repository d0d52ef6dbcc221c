"""Counters and histograms kept while the pool works, and the snapshots made of them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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


class Histogram:
    """Durations, counted in fixed buckets."""

    __slots__ = ("_counts", "_fresh", "_sum", "observe")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0
        self._fresh: list[float] = []
        self.observe = self._fresh.append
        """`observe(seconds)`. It only keeps the number: sorting it in is `fold()`'s work, which somebody
        must do now and then."""

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
    """Borrows that waited for nothing; kept apart from `wait` because they cost next to nothing so."""
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
class PoolStats:
    """The pool at one moment: gauges of now, counters since it was made."""

    name: str
    min_size: int
    max_size: int
    size: int
    """Live connections: idle, checked, in use and on their way back."""
    idle: int
    used: int
    opening: int
    closing: int
    returning: int
    """Being rolled back or reset after their borrower has gone."""
    validating: int
    waiting: int
    oldest_wait: float
    """Seconds that the head of the queue has waited."""
    standing_queue: float
    """Seconds since the queue was last empty; 0 while it is."""
    utilisation: float
    """`used / max_size`, 0 to 1."""
    borrowed: int
    opened: int
    open_failures: int
    closed: Mapping[str, int]
    """By reason."""
    resets: int
    timeouts: int
    shed: Mapping[str, int]
    """By reason."""
    leaks: Mapping[str, int]
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
    wait: HistogramSnapshot
    use: HistogramSnapshot
    create: HistogramSnapshot

    def summary(self) -> str:
        """One line for error messages."""
        line = f"{self.used} of {self.max_size} in use, {self.idle} idle, {self.waiting} waiting"
        if self.opening:
            line += f", {self.opening} opening"
        if self.last_error:
            line += f"; last attempt to connect failed: {self.last_error}"
        return line
