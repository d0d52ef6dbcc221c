"""What the turns say: a row per contestant, what refusing costs, memory over a long run, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeAlias

from bench.http.trial import (
    BARE,
    CONNECTIONS,
    INSTRUMENTED,
    OURS,
    SQLALCHEMY,
    WRITERS,
    Contestant,
    Half,
    LongRun,
    Refusals,
    Turn,
)
from bench.quantile import quantile
from bench.targets import Target, at_least, at_most

Figure: TypeAlias = Callable[[Turn], float]

MEGABYTE = 2**20
OK, CREATED, UNAVAILABLE = 200, 201, 503
FEW, MANY = CONNECTIONS


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant: medians over the rounds, ratios within them. `_us` is processor time, microseconds."""

    contestant: str
    reads_per_second_16: float
    reads_per_second_64: float
    read_us: float
    """A GET, at 64 connections."""
    read_us_by_round: list[float]
    read_times_bare: float | None
    """None: nobody to compare with was in the run."""
    writes_per_second: float
    write_us: float
    write_times_bare: float | None
    half_rate: float
    """Requests a second in the open loop."""
    half_p50_ms: float
    half_p99_ms: float
    start_s: float
    memory_mb: float
    memory_after_mb: float
    """At the end of a turn."""
    database_cores: float
    clients_cores: float
    """At 64 connections, as the database's."""
    unexpected: int
    """Answers that were no success, and those that did not come, in all rounds."""


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """Requests that are refused, while the clients ask as fast as they can."""

    manner: str
    per_second: float
    refused_us: float
    times_served: float
    """A GET that is served, at as many connections in the same round, is 1."""
    unexpected: int


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """A long run: megabytes of private memory after so many requests."""

    contestant: str
    requests: list[int]
    memory_mb: list[float]
    unexpected: int
    clients_cores: float


@dataclass(frozen=True, slots=True)
class Report:
    """Reads turns. Ratios are taken within a round: two turns of one ran seconds apart, so a machine that
    slows down slows both."""

    turns: Sequence[Turn]
    refusals: Sequence[Refusals] = ()
    long_runs: Sequence[LongRun] = field(default=())

    def rows(self) -> list[Row]:
        contestants = dict.fromkeys(turn.contestant for turn in self.turns)
        return [self._row(contestant) for contestant in contestants]

    def refusal_rows(self) -> list[RefusalRow]:
        served = {turn.round: turn.reads[MANY].cost for turn in self._of(OURS)}
        manners = {
            "saturated": {one.round: one.saturated for one in self.refusals},
            "circuit open": {one.round: one.closed for one in self.refusals},
        }
        return [
            RefusalRow(
                manner=manner,
                per_second=median(load.rate for load in loads.values()),
                refused_us=median(load.cost for load in loads.values()),
                times_served=median(load.cost / served[number] for number, load in loads.items()),
                unexpected=sum(load.other_than(UNAVAILABLE) for load in loads.values()),
            )
            for manner, loads in manners.items()
            if loads
        ]

    def memory_rows(self) -> list[MemoryRow]:
        return [
            MemoryRow(
                contestant=run.contestant.name,
                requests=run.requests,
                memory_mb=[size / MEGABYTE for size in run.memory],
                unexpected=run.unexpected,
                clients_cores=run.clients,
            )
            for run in self.long_runs
        ]

    def targets(self) -> list[Target]:
        return list(self._targets()) if self._of(OURS) else []

    def _targets(self) -> Iterator[Target]:
        for bound, promise, at, figure in (
            (0.5, "cpu of a GET / bare asyncpg.Pool's", f"{MANY} connections", _read_cost),
            (0.6, "cpu of a POST / bare asyncpg.Pool's", f"{WRITERS} connections", _write_cost),
        ):
            if (cost := self._ratio(figure, OURS, BARE)) is not None:
                yield at_most(bound, promise, at, cost)
        for bound, peer, name in (
            (1.8, BARE, "bare asyncpg.Pool's"),
            (2.2, INSTRUMENTED, "asyncpg.Pool's with the instrumentator"),
            (3.0, SQLALCHEMY, "bare SQLAlchemy's"),
        ):
            for connections in CONNECTIONS:
                speed = self._ratio(_rate_at(connections), OURS, peer)
                if speed is not None:
                    yield at_least(bound, f"GETs a second / {name}", f"{connections} connections", speed)
        for row in self.refusal_rows():
            yield at_most(0.25, "cpu of a refusal / of a GET", row.manner, row.times_served)
        for run in self.memory_rows():
            if run.contestant == OURS.name and len(run.memory_mb) > 2:
                asked = f"requests {run.requests[1]} to {run.requests[-1]}"
                yield at_most(1.05, "memory at the end / after the first tenth", asked, _growth(run))
        wrong = [row.unexpected for row in self.rows() if row.contestant == OURS.name]
        wrong += [row.unexpected for row in self.refusal_rows()]
        wrong += [row.unexpected for row in self.memory_rows() if row.contestant == OURS.name]
        yield at_most(0, "answers of another kind than asked for", "all", sum(wrong))

    def _row(self, contestant: Contestant) -> Row:
        turns = self._of(contestant)

        def typical(figure: Figure) -> float:
            return median(figure(turn) for turn in turns)

        return Row(
            contestant=contestant.name,
            reads_per_second_16=typical(_rate_at(FEW)),
            reads_per_second_64=typical(_rate_at(MANY)),
            read_us=typical(_read_cost),
            read_us_by_round=[round(_read_cost(turn), 1) for turn in turns],
            read_times_bare=self._ratio(_read_cost, contestant, BARE),
            writes_per_second=typical(lambda turn: turn.writes.rate),
            write_us=typical(_write_cost),
            write_times_bare=self._ratio(_write_cost, contestant, BARE),
            half_rate=typical(lambda turn: turn.half.rate),
            half_p50_ms=typical(lambda turn: _latency(turn.half, 0.5)),
            half_p99_ms=typical(lambda turn: _latency(turn.half, 0.99)),
            start_s=typical(lambda turn: turn.start),
            memory_mb=typical(lambda turn: turn.memory / MEGABYTE),
            memory_after_mb=typical(lambda turn: turn.memory_after / MEGABYTE),
            database_cores=typical(lambda turn: turn.reads[MANY].database / turn.reads[MANY].seconds),
            clients_cores=typical(lambda turn: turn.reads[MANY].clients / turn.reads[MANY].seconds),
            unexpected=sum(map(_unexpected, turns)),
        )

    def _ratio(self, figure: Figure, one: Contestant, other: Contestant) -> float | None:
        """The median over the rounds; None if one of the two was not in the run."""
        theirs = {turn.round: figure(turn) for turn in self._of(other)}
        ratios = [figure(turn) / theirs[turn.round] for turn in self._of(one) if turn.round in theirs]
        return median(ratios) if ratios else None

    def _of(self, contestant: Contestant) -> list[Turn]:
        """Turns in the order of their rounds."""
        return [turn for turn in self.turns if turn.contestant is contestant]


def _growth(run: MemoryRow) -> float:
    return run.memory_mb[-1] / run.memory_mb[1]


def _read_cost(turn: Turn) -> float:
    return turn.reads[MANY].cost


def _write_cost(turn: Turn) -> float:
    return turn.writes.cost


def _rate_at(connections: int) -> Figure:
    return lambda turn: turn.reads[connections].rate


def _latency(half: Half, share: float) -> float:
    """Milliseconds since a request was due, without the first third of them, in which things settle."""
    answers = half.answers
    last = answers.scheduled[-1] if answers.scheduled else 0.0
    counted = [answers.latency[number] for number, due in enumerate(answers.scheduled) if due >= last / 3]
    return quantile(sorted(counted), share) * 1e3 if counted else 0.0


def _unexpected(turn: Turn) -> int:
    reads = sum(load.other_than(OK) for load in turn.reads.values())
    open_loop = sum(status != OK for status in turn.half.answers.status)
    return reads + turn.writes.other_than(CREATED) + open_loop
