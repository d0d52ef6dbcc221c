"""What the trials say: a row for each manner of restarting, and the targets."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.quantile import quantile
from bench.rolling.clients import RESET
from bench.targets import Target, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.rolling.trial import Trial


@dataclass(frozen=True, slots=True)
class Row:
    """One trial. Latencies are milliseconds from the instant a request was due."""

    manner: str
    control: bool
    restarts: int
    seconds: float
    requests: int
    failed: int
    """Resets included."""
    resets: int
    failures: dict[str, int]
    """The same by what came instead of a success."""
    failed_in_restart: list[int]
    """The same by rolling restart."""
    p50_ms: float
    p99_ms: float
    longest_ms: float
    clients_late_ms: float
    """The longest by which the clients themselves were late: of a longest latency, what is the machine's."""
    failed_exits: int
    acknowledged: int
    """Transfers that a client was told of."""
    book_faults: int
    """Acknowledged transfers that are not there, unasked ones that are, sums that are off."""


def row_of(trial: Trial) -> Row:
    log = trial.log
    latencies = sorted(latency for _, latency in log.latencies)
    in_restart = [0] * len(trial.restarts)
    for at, _ in log.failures:
        in_restart[max(0, bisect_right(trial.restarts, at) - 1)] += 1
    failures = Counter(what for _, what in log.failures)
    return Row(
        manner=trial.manner.name,
        control=trial.manner.control,
        restarts=len(trial.restarts),
        seconds=trial.ended - trial.started,
        requests=len(latencies),
        failed=len(log.failures),
        resets=failures[RESET],
        failures=dict(failures),
        failed_in_restart=in_restart,
        p50_ms=quantile(latencies, 0.5) * 1e3,
        p99_ms=quantile(latencies, 0.99) * 1e3,
        longest_ms=latencies[-1] * 1e3,
        clients_late_ms=max(log.lateness) * 1e3,
        failed_exits=trial.failed_exits,
        acknowledged=trial.books.acknowledged,
        book_faults=trial.books.faults,
    )


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [target for row in rows for target in _targets(row)]


def _targets(row: Row) -> Iterator[Target]:
    at = f"{row.manner}, {row.restarts} restarts"
    yield at_most(0, "faults in the books", at, row.book_faults)
    if row.control:
        yield at_least(1, "failed requests", at, row.failed)
        return
    yield at_most(0, "failed requests", at, row.failed)
    yield at_most(0, "resets", at, row.resets)
    yield at_most(0, "exit codes other than 0", at, row.failed_exits)
