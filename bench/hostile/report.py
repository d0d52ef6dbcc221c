"""What the trials say: a row per contestant and attack, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.hostile.trial import OURS, SETTLE
from bench.quantile import quantile
from bench.targets import Target, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.hostile.trial import Trial
    from bench.overload.generator import Answers

OK = 200
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """One trial. Latencies are milliseconds from the scheduled instant; who gave up counts with the
    deadline."""

    contestant: str
    attack: str
    quiet_served: float
    served: float
    """Share of the users' requests, during the attack."""
    quiet_p50_ms: float
    quiet_p99_ms: float
    p50_ms: float
    p99_ms: float
    memory_mb: float
    """Of the service, at its highest."""
    breaker_transitions: int | None
    attacks: int
    """Answers that the attackers got, whatever they say."""
    attacks_mb: float
    """Megabytes that they sent."""
    connections: int
    service_cores: float
    attackers_cores: float
    users_late_p99_ms: float


def rows_of(trials: Sequence[Trial]) -> list[Row]:
    return [_row(trial) for trial in trials]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [target for row in rows if row.contestant == OURS.name for target in _targets(row)]


def _targets(row: Row) -> Iterator[Target]:
    at = row.attack
    yield at_least(0.999, "users served", at, row.served)
    yield at_most(3, "p99 / quiet p99", at, row.p99_ms / row.quiet_p99_ms)
    yield at_most(256, "memory, MB", at, row.memory_mb)
    yield at_most(0, "breaker transitions", at, row.breaker_transitions or 0)


def _row(trial: Trial) -> Row:
    quiet, hostile = _measured(trial.quiet), _measured(trial.hostile)
    statuses = trial.attack["statuses"].values()
    latencies, quiet_latencies = _latencies(hostile), _latencies(quiet)
    return Row(
        contestant=trial.contestant.name,
        attack=trial.name,
        quiet_served=_served(quiet),
        served=_served(hostile),
        quiet_p50_ms=quantile(quiet_latencies, 0.5),
        quiet_p99_ms=quantile(quiet_latencies, 0.99),
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        memory_mb=trial.memory / MEGABYTE,
        breaker_transitions=trial.transitions,
        attacks=sum(sum(counts.values()) for counts in statuses),
        attacks_mb=sum(trial.attack["megabytes_sent"].values()),
        connections=sum(trial.attack["connections"].values()),
        service_cores=trial.hostile.processor[-1]["service"] / trial.seconds,
        attackers_cores=trial.attack["processor"] / trial.seconds,
        users_late_p99_ms=quantile(sorted(late for _, _, late in hostile), 0.99) * 1e3,
    )


def _measured(answers: Answers) -> list[tuple[int, float, float]]:
    """Status, latency and lateness of each request after the first phase, in which things settle."""
    return [
        (answers.status[number], answers.latency[number], answers.lateness[number])
        for number, scheduled in enumerate(answers.scheduled)
        if scheduled >= SETTLE
    ]


def _served(measured: Sequence[tuple[int, float, float]]) -> float:
    return sum(status == OK for status, _, _ in measured) / len(measured)


def _latencies(measured: Sequence[tuple[int, float, float]]) -> list[float]:
    return sorted(latency * 1e3 for _, latency, _ in measured)
