"""What the turns say: a row per implementation and number of borrowers, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import TypeAlias

from bench.pool.implementations import (
    ASYNCPG,
    FLOOR,
    MANY_LANES,
    ONE_LANE,
    OURS,
    PSYCOPG,
    Implementation,
)
from bench.pool.measure import BORROWERS, Turn
from bench.targets import Target, at_least, at_most

Figure: TypeAlias = Callable[[Turn], float]

CROWDED = BORROWERS[1:]
"""Numbers of borrowers above the size of the pool, where there is a wait to speak of."""


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds; `wait_max_ms` is the longest of all. No waits where nobody waits."""

    implementation: str
    borrowers: int
    us_per_operation: float
    us_by_round: list[float]
    times_floor: float
    cpu_us_per_operation: float
    cpu_times_floor: float
    cpu_times_no_lane: float
    """The same operation of our pool where nobody names a lane is 1."""
    operations_per_second: float
    wait_mean_ms: float | None
    wait_p50_ms: float | None
    wait_p99_ms: float | None
    wait_max_ms: float | None
    fairness: float
    fewest: float
    most: float


class Report:
    """Reads turns. A ratio is taken within each round, then the median over the rounds: two turns
    of one round ran seconds apart, so a machine that slows down slows both.
    """

    def __init__(self, turns: Sequence[Turn], implementations: Sequence[Implementation]) -> None:
        self._turns = turns
        self._implementations = implementations

    def rows(self) -> list[Row]:
        return [self._row(*pair) for pair in product(self._implementations, BORROWERS)]

    def targets(self) -> list[Target]:
        if OURS not in self._implementations:
            return []
        return list(self._targets())

    def _targets(self) -> Iterator[Target]:
        for borrowers in BORROWERS:
            cost = self._ratio(_cost, OURS, FLOOR, borrowers)
            yield at_most(1.25, "cost of an operation / floor's", _at(borrowers), cost)
        for (lanes, bound), borrowers in product(((ONE_LANE, 1.03), (MANY_LANES, 1.08)), BORROWERS):
            cost = self._ratio(_cpu, lanes, OURS, borrowers)
            yield at_most(bound, f"cpu of an operation: {lanes.name} / none", _at(borrowers), cost)
        for peer, borrowers in product((ASYNCPG, PSYCOPG), BORROWERS):
            speed = self._ratio(_cost, peer, OURS, borrowers)
            yield at_least(2.5, f"throughput / {peer.name}'s", _at(borrowers), speed)
        for (peer, bound), borrowers in product(((ASYNCPG, 0.1), (PSYCOPG, 0.5)), CROWDED):
            wait = self._ratio(_wait_p99, OURS, peer, borrowers)
            yield at_most(bound, f"p99 wait / {peer.name}'s", _at(borrowers), wait)
        for borrowers in CROWDED:
            spread = median(turn.wait_p99 / turn.wait_mean for turn in self._of(OURS, borrowers))
            yield at_most(3, "p99 wait / mean wait", _at(borrowers), spread)

    def _row(self, implementation: Implementation, borrowers: int) -> Row:
        turns = self._of(implementation, borrowers)

        def typical(figure: Figure) -> float:
            return median(figure(turn) for turn in turns)

        def milliseconds(seconds: float) -> float | None:
            return seconds * 1e3 if implementation.pooled else None

        return Row(
            implementation=implementation.name,
            borrowers=borrowers,
            us_per_operation=typical(_cost),
            us_by_round=[round(_cost(turn), 2) for turn in turns],
            times_floor=self._ratio(_cost, implementation, FLOOR, borrowers),
            cpu_us_per_operation=typical(_cpu),
            cpu_times_floor=self._ratio(_cpu, implementation, FLOOR, borrowers),
            cpu_times_no_lane=self._ratio(_cpu, implementation, OURS, borrowers),
            operations_per_second=typical(lambda turn: turn.operations / turn.wall),
            wait_mean_ms=milliseconds(typical(lambda turn: turn.wait_mean)),
            wait_p50_ms=milliseconds(typical(lambda turn: turn.wait_p50)),
            wait_p99_ms=milliseconds(typical(_wait_p99)),
            wait_max_ms=milliseconds(max(turn.wait_max for turn in turns)),
            fairness=typical(lambda turn: turn.fairness),
            fewest=typical(lambda turn: turn.fewest),
            most=typical(lambda turn: turn.most),
        )

    def _ratio(self, figure: Figure, one: Implementation, other: Implementation, borrowers: int) -> float:
        pairs = zip(self._of(one, borrowers), self._of(other, borrowers), strict=True)
        return median(figure(mine) / figure(theirs) for mine, theirs in pairs)

    def _of(self, implementation: Implementation, borrowers: int) -> list[Turn]:
        """Turns in the order of their rounds."""
        wanted = (implementation.name, borrowers)
        return [turn for turn in self._turns if (turn.implementation, turn.borrowers) == wanted]


def _at(borrowers: int) -> str:
    return f"{borrowers} borrowers"


def _cost(turn: Turn) -> float:
    return turn.us_per_operation


def _cpu(turn: Turn) -> float:
    return turn.cpu_us_per_operation


def _wait_p99(turn: Turn) -> float:
    return turn.wait_p99
