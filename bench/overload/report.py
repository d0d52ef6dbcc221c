"""What the trials say: a row per contestant and load, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.overload.generator import GAVE_UP
from bench.overload.trial import DEADLINE, OURS
from bench.overload.work import SERVICE_TIME
from bench.quantile import quantile
from bench.targets import Target, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.overload.trial import Trial

OK = 200
REFUSED = (429, 503)
QUEUE_TARGET = 0.25
"""Seconds; the default of POOL_QUEUE_TARGET."""
WINDOW = 0.5
"""Seconds of calm looked at together when recovery is sought."""
AS_CALM = 1.5
"""A window is as calm as before when its p99 is at most this many times the unloaded p99."""
GOODPUT_TARGETS = {1.5: 0.95, 3: 0.95, 5: 0.92, 10: 0.90}
"""By load: the share of the peak that must still be served in time."""
REFUSAL_LOAD = 5
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Row:
    """One trial. Rates are per second, latencies milliseconds from the scheduled instant.

    Whoever was neither answered nor refused counts as admitted, with the deadline for a latency.
    """

    contestant: str
    load: float
    offered: float
    goodput: float
    refused: float
    gave_up: float
    broken: float
    """Other statuses and failed connections."""
    admitted_p50_ms: float | None
    admitted_p99_ms: float | None
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    recovery: float | None
    """Seconds from the fall of the load until latency is as before; None: not while we looked."""
    breaker_transitions: int | None
    service_cores: float
    database_cores: float
    generator_cores: float
    generator_late_p99_ms: float


def rows_of(trials: Sequence[Trial]) -> list[Row]:
    """Rows in the order of the trials. The least load shows each contestant's unloaded p99."""
    unloaded: dict[str, float] = {}
    for trial in sorted(trials, key=lambda trial: trial.load):
        unloaded.setdefault(trial.contestant.name, _unloaded_p99(trial))
    return [_row(trial, unloaded[trial.contestant.name]) for trial in trials]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    ours = [row for row in rows if row.contestant == OURS.name]
    return list(_targets(ours)) if ours else []


def _targets(ours: Sequence[Row]) -> Iterator[Target]:
    peak = max(row.goodput for row in ours)
    for row in ours:
        at = f"{row.load:g} x capacity"
        if row.load in GOODPUT_TARGETS:
            bound = GOODPUT_TARGETS[row.load]
            yield at_least(bound, "goodput / peak", at, row.goodput / peak)
        longest = (QUEUE_TARGET * 2 + SERVICE_TIME) * 1e3
        yield at_most(longest, "p99 of the admitted, ms", at, row.admitted_p99_ms or 0.0)
        if row.load == REFUSAL_LOAD and row.refused_p99_ms is not None:
            yield at_most(20, "p99 of refusals, ms", at, row.refused_p99_ms)
        if row.load > 1:
            yield at_most(2, "recovery, s", at, NEVER if row.recovery is None else row.recovery)
        yield at_most(0, "breaker transitions", at, row.breaker_transitions or 0)


def _row(trial: Trial, unloaded_p99: float) -> Row:
    answers, seconds = trial.answers, trial.seconds
    begin, end = seconds.settle, seconds.settle + seconds.measured
    measured = [
        (answers.status[number], answers.latency[number], answers.lateness[number])
        for number, scheduled in enumerate(answers.scheduled)
        if begin <= scheduled < end
    ]
    served = sum(status == OK and latency <= DEADLINE for status, latency, _ in measured)
    refused = sorted(latency for status, latency, _ in measured if status in REFUSED)
    admitted = sorted(latency for status, latency, _ in measured if status in (OK, GAVE_UP))
    gave_up = sum(status == GAVE_UP for status, _, _ in measured)
    processor = answers.processor[1]
    return Row(
        contestant=trial.contestant.name,
        load=trial.load,
        offered=len(measured) / seconds.measured,
        goodput=served / seconds.measured,
        refused=len(refused) / seconds.measured,
        gave_up=gave_up / seconds.measured,
        broken=(len(measured) - len(refused) - len(admitted)) / seconds.measured,
        admitted_p50_ms=_milliseconds(admitted, 0.5),
        admitted_p99_ms=_milliseconds(admitted, 0.99),
        refused_p50_ms=_milliseconds(refused, 0.5),
        refused_p99_ms=_milliseconds(refused, 0.99),
        recovery=_recovery(trial, unloaded_p99),
        breaker_transitions=trial.transitions,
        service_cores=processor["service"] / seconds.measured,
        database_cores=processor["database"] / seconds.measured,
        generator_cores=processor["generator"] / seconds.measured,
        generator_late_p99_ms=quantile(sorted(late for _, _, late in measured), 0.99) * 1e3,
    )


def _milliseconds(ascending: Sequence[float], share: float) -> float | None:
    return quantile(ascending, share) * 1e3 if ascending else None


def _unloaded_p99(trial: Trial) -> float:
    seconds = trial.seconds
    return _p99(trial, seconds.settle, seconds.settle + seconds.measured)


def _recovery(trial: Trial, unloaded_p99: float) -> float | None:
    """The end of the last window that was not yet as calm as before."""
    fall = trial.seconds.settle + trial.seconds.measured
    windows = int(trial.seconds.calm / WINDOW)
    troubled = [
        number + 1
        for number in range(windows)
        if _p99(trial, fall + number * WINDOW, fall + (number + 1) * WINDOW) > unloaded_p99 * AS_CALM
    ]
    if not troubled:
        return 0.0
    return troubled[-1] * WINDOW if troubled[-1] < windows else None


def _p99(trial: Trial, begin: float, end: float) -> float:
    """p99 of all who asked in [begin, end); whoever was not served waited for ever."""
    answers = trial.answers
    latencies = sorted(
        answers.latency[number] if answers.status[number] == OK else NEVER
        for number, scheduled in enumerate(answers.scheduled)
        if begin <= scheduled < end
    )
    return quantile(latencies, 0.99)
