"""What the trials say: a row per outage, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.overload.trial import OURS
from bench.quantile import quantile
from bench.targets import Target, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.outage.trial import Outage, Trial

OK = 200
REFUSED = 503
MILLISECONDS = 0.05
"""Seconds: an answer that took longer did not come in milliseconds."""
PATIENCE = 2.0
"""Seconds: the default of POOL_OUTAGE_PATIENCE, in which clients wait."""
STOPPING = 1.0
"""Seconds that a server may take to end its sessions."""


@dataclass(frozen=True, slots=True)
class Request:
    scheduled: float
    latency: float
    status: int


@dataclass(frozen=True, slots=True)
class Row:
    """One outage. Instants are seconds after the stop or after the return of the server."""

    contestant: str
    mode: str
    away: float
    """From the order to stop until it takes connections again."""
    slow_until: float
    """The end of the last answer, after the stop, that did not come in milliseconds."""
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    """Of all who asked after the patience, whatever they were told; None: nobody did."""
    first_success: float | None
    last_failure: float
    """When the last request left, after the return, that did not succeed; 0 if all did."""
    first_second: float
    """Share of the requests of the first second after the return that succeeded."""
    afterwards: float
    """The same from the second second on."""
    broken: int
    """Neither 200 nor 503: other errors, clients who gave up, connections that failed."""


def rows_of(trials: Sequence[Trial]) -> list[Row]:
    return [_row(trial, outage) for trial in trials for outage in trial.outages]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return [target for row in rows if row.contestant == OURS.name for target in _targets(row)]


def _targets(row: Row) -> Iterator[Target]:
    at = f"{row.mode}, {row.away:.1f} s"
    yield at_most(PATIENCE + STOPPING, "every answer in milliseconds, s after the stop", at, row.slow_until)
    yield at_least(0.99, "successes from 1 s after the return", at, row.afterwards)
    yield at_most(0, "neither served nor refused", at, row.broken)


def _row(trial: Trial, outage: Outage) -> Row:
    during = _between(trial, outage.stopped, outage.returned)
    after = _between(trial, outage.returned, outage.over)
    slow = [ask for ask in during if ask.latency > MILLISECONDS]
    later = sorted(ask.latency for ask in during if ask.scheduled > outage.stopped + PATIENCE + STOPPING)
    failed = [ask.scheduled for ask in after if ask.status != OK]
    succeeded = [
        ask.scheduled + ask.latency
        for ask in (*during, *after)
        if ask.status == OK and ask.scheduled + ask.latency >= outage.returned
    ]
    return Row(
        contestant=trial.contestant.name,
        mode=outage.stop.mode,
        away=outage.returned - outage.stopped,
        slow_until=max((ask.scheduled + ask.latency - outage.stopped for ask in slow), default=0.0),
        refused_p50_ms=quantile(later, 0.5) * 1e3 if later else None,
        refused_p99_ms=quantile(later, 0.99) * 1e3 if later else None,
        first_success=min(succeeded) - outage.returned if succeeded else None,
        last_failure=max(failed, default=outage.returned) - outage.returned,
        first_second=_success(_between(trial, outage.returned, outage.returned + 1)),
        afterwards=_success(_between(trial, outage.returned + 1, outage.over)),
        broken=sum(ask.status not in {OK, REFUSED} for ask in (*during, *after)),
    )


def _between(trial: Trial, begin: float, end: float) -> list[Request]:
    answers = trial.answers
    return [
        Request(scheduled, answers.latency[number], answers.status[number])
        for number, scheduled in enumerate(answers.scheduled)
        if begin <= scheduled < end
    ]


def _success(asked: Sequence[Request]) -> float:
    return sum(ask.status == OK for ask in asked) / len(asked) if asked else 0.0
