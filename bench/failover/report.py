"""What the trials say: a row for each manner, and the targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.targets import Target, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.failover.trial import Event, Trial

PLANNED = ("restart", "switchover")
SEVERAL_HOSTS, ONE_NAME = 0.5, 3.0
"""Seconds: behind HAProxy one is its look at the servers."""


@dataclass(frozen=True, slots=True)
class Row:
    """One manner, and how often it happened. Seconds."""

    manner: str
    events: int
    requests: int
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0
    """Of all answers."""
    away: list[float] = field(default_factory=list)
    """By event: from its order until a server took writes."""
    first_write: list[float] = field(default_factory=list)
    """By event: from then on until a transfer was acknowledged."""
    acknowledged: int = 0
    lost_or_doubled: int = 0
    load_average: float = 0.0
    """The highest of the machine's, at the events."""


def row_of(trial: Trial) -> Row:
    answers = trial.seen.answers
    return Row(
        manner=trial.name,
        events=len(trial.events),
        requests=len(answers),
        failed=sum(bool(answer.failure) for answer in answers),
        reasons=dict(Counter(answer.failure for answer in answers if answer.failure)),
        longest=max(answer.answered - answer.due for answer in answers),
        away=[event.writable - event.began for event in trial.events],
        first_write=[_first_write(trial, event) for event in trial.events],
        acknowledged=trial.books.acknowledged,
        lost_or_doubled=trial.books.faults,
        load_average=max(event.load_average for event in trial.events),
    )


def _first_write(trial: Trial, event: Event) -> float:
    """Infinite if there was none."""
    after = (
        answer.answered - event.writable
        for answer in trial.seen.answers
        if answer.writes and not answer.failure and answer.answered > event.writable
    )
    return min(after, default=float("inf"))


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [target for row in rows for target in _targets(row)]


def _targets(row: Row) -> Iterator[Target]:
    if row.manner in PLANNED:
        yield at_most(0, "requests failed", row.manner, row.failed)
    bound = ONE_NAME if "haproxy" in row.manner else SEVERAL_HOSTS
    yield at_most(bound, "first write, s after the server takes it", row.manner, max(row.first_write))
    yield at_most(0, "transfers lost or doubled", row.manner, row.lost_or_doubled)
