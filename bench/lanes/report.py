"""What the trials say: a row for each who of a scene, and the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.lanes.scenes import BESIDE, CRITICAL, CROWD, FLOOD, LOCKED, OTHERS
from bench.lanes.trial import OURS
from bench.overload.generator import GAVE_UP
from bench.overload.report import OK, REFUSED
from bench.overload.trial import DEADLINE
from bench.quantile import quantile
from bench.targets import Target, at_least, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.lanes.trial import Trial

STEP = 0.5
"""Seconds of the lock that are looked at together."""
MARGIN = 4
"""Seconds shown before the lock and after it."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Those of one who in one part of a scene. Shares are of all that were sent."""

    offered: float
    """A second."""
    in_time: float
    refused: float
    gave_up: float
    broken: float
    """Other statuses, later answers and failed connections."""
    goodput: float
    """In time, a second."""
    p50_ms: float | None
    p99_ms: float | None
    """From the scheduled instant, over those who were served or gave up; None: there were none."""


@dataclass(frozen=True, slots=True)
class Row:
    """One who in one trial, before and while the scene's trouble lasts."""

    scene: str
    contestant: str
    who: str
    before: Requests
    during: Requests
    breaker_transitions: int | None
    service_cores: float
    database_cores: float
    generator_cores: float
    generator_late_p99_ms: float
    """The last four are of the whole trial."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the routes beside the lock got, in steps of `STEP` seconds from the beginning of the lock."""

    contestant: str
    seconds: list[float]
    in_time: list[float]


def rows_of(trials: Sequence[Trial]) -> list[Row]:
    return [
        _row(trial, who) for trial in trials for who in dict.fromkeys(kind.who for kind in trial.scene.kinds)
    ]


def lines_of(trials: Sequence[Trial]) -> list[Line]:
    return [_line(trial) for trial in trials if trial.scene.locks]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    ours = [row for row in rows if row.contestant == OURS.name]
    return [target for name, targets in _TARGETS.items() for target in targets(_of(ours, name), name)]


def _locked(rows: dict[str, Row], at: str) -> Iterator[Target]:
    if row := rows.get(BESIDE):
        yield at_least(0.999, "routes beside the lock: in time", at, row.during.in_time)
        unloaded = (row.before.p99_ms or 0.0) * 2
        yield at_most(
            unloaded, "their p99, ms, against twice the one without a lock", at, row.during.p99_ms or unloaded
        )
        yield from _no_transitions(row, at)


def _crowd(rows: dict[str, Row], at: str) -> Iterator[Target]:
    if row := rows.get(CRITICAL):
        yield at_least(0.99, "critical requests: in time", at, row.during.in_time)
        peak = sum(row.before.goodput for row in rows.values())
        goodput = sum(row.during.goodput for row in rows.values())
        yield at_least(0.9, "goodput of all / peak", at, goodput / peak)
        yield from _no_transitions(row, at)


def _flood(rows: dict[str, Row], at: str) -> Iterator[Target]:
    if row := rows.get(OTHERS):
        yield at_most(0.01, "lost by the other 49", at, 1 - row.during.in_time)
        yield from _no_transitions(row, at)


_TARGETS = {LOCKED: _locked, CROWD: _crowd, FLOOD: _flood}


def _no_transitions(row: Row, at: str) -> Iterator[Target]:
    yield at_most(0, "transitions of the database's breaker", at, row.breaker_transitions or 0)


def _of(rows: Sequence[Row], scene: str) -> dict[str, Row]:
    return {row.who: row for row in rows if row.scene == scene}


def _row(trial: Trial, who: str) -> Row:
    answers = trial.answers
    played = max(answers.scheduled)
    cores = {
        name: sum(phase[name] for phase in answers.processor) / played
        for name in ("service", "database", "generator")
    }
    return Row(
        scene=trial.scene.name,
        contestant=trial.contestant.name,
        who=who,
        before=_requests(trial, who, *trial.before),
        during=_requests(trial, who, *trial.during),
        breaker_transitions=trial.transitions,
        service_cores=cores["service"],
        database_cores=cores["database"],
        generator_cores=cores["generator"],
        generator_late_p99_ms=quantile(sorted(answers.lateness), 0.99) * 1e3,
    )


def _requests(trial: Trial, who: str, begin: float, end: float) -> Requests:
    asked = _between(trial, who, begin, end)
    number, seconds = max(len(asked), 1), end - begin
    in_time = sum(status == OK and latency <= DEADLINE for status, latency in asked)
    refused = sum(status in REFUSED for status, _ in asked)
    gave_up = sum(status == GAVE_UP for status, _ in asked)
    admitted = sorted(latency for status, latency in asked if status in (OK, GAVE_UP))
    return Requests(
        offered=len(asked) / seconds,
        in_time=in_time / number,
        refused=refused / number,
        gave_up=gave_up / number,
        broken=(len(asked) - in_time - refused - gave_up) / number,
        goodput=in_time / seconds,
        p50_ms=quantile(admitted, 0.5) * 1e3 if admitted else None,
        p99_ms=quantile(admitted, 0.99) * 1e3 if admitted else None,
    )


def _between(trial: Trial, who: str, begin: float, end: float) -> list[tuple[int, float]]:
    """Status and latency of each request of theirs that was due then."""
    answers, kinds = trial.answers, trial.scene.kinds
    return [
        (answers.status[number], answers.latency[number])
        for number, scheduled in enumerate(answers.scheduled)
        if begin <= scheduled < end and kinds[answers.kind[number]].who == who
    ]


def _line(trial: Trial) -> Line:
    begin, end = trial.during
    steps = range(round(-MARGIN / STEP), round((end - begin + MARGIN) / STEP))
    shares = [
        _requests(trial, BESIDE, begin + step * STEP, begin + (step + 1) * STEP).in_time for step in steps
    ]
    return Line(trial.contestant.name, [(step + 0.5) * STEP for step in steps], shares)
