"""What the points say: a row for each number of something, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import truediv
from statistics import median

from bench.scale.trial import CONNECTIONS, IDLE, LANES, WAITERS, Point
from bench.targets import Target, at_most

MEGABYTE, KILOBYTE = 2**20, 2**10
LINEAR = 1.5
"""Ten or a hundred times as many may make an operation, or one of them, dearer by this much."""
ENOUGH = {WAITERS: 1000, CONNECTIONS: 100, LANES: 50, IDLE: 1000}
"""From so many on memory for each is a figure: below, what the process took anyway is larger."""
BEGIN = {WAITERS: 10, CONNECTIONS: 5, LANES: 1, IDLE: 1}
"""What the cost of an operation is held against: the least with which somebody waits."""


@dataclass(frozen=True, slots=True)
class Row:
    """So many of something: medians over the rounds."""

    what: str
    number: int
    cost_us: float
    """Processor time of the process for an operation: a borrow with `SELECT 1`, or a GET."""
    cost_by_round: list[float]
    per_second: float
    memory_kb: float | None
    """Private memory of the process for each of them; None: too few to say."""
    memory_mb: float
    """For all of them."""
    idle_cores: float | None
    """Processor time while nobody asks; of HTTP connections alone."""
    backend_mb: float | None
    """Private memory of the server for each connection."""


def rows_of(points: Sequence[Point]) -> list[Row]:
    keys = dict.fromkeys((one.what, one.number) for one in points)
    return [_row(_same(points, *key), _beside(points, key[0])) for key in keys]


def targets_of(rows: Sequence[Row]) -> list[Target]:
    return list(_targets(rows))


def _targets(rows: Sequence[Row]) -> Iterator[Target]:
    for what in dict.fromkeys(row.what for row in rows):
        of_it = [row for row in rows if row.what == what and row.number >= BEGIN[what]]
        if len(of_it) < 2:
            continue
        first, last = of_it[0], of_it[-1]
        at = f"{last.number} / {first.number} {what}"
        # Within a round: what ran a minute later met another machine.
        growth = median(map(truediv, last.cost_by_round, first.cost_by_round))
        yield at_most(LINEAR, "cpu of an operation", at, growth)
        known = [row for row in of_it if row.memory_kb]
        if len(known) > 1:
            at = f"{known[-1].number} / {known[0].number} {what}"
            growth = (known[-1].memory_kb or 0) / (known[0].memory_kb or 1)
            yield at_most(LINEAR, "memory for each", at, growth)


def _beside(points: Sequence[Point], what: str) -> float:
    """Bytes that are not of the lanes but of those who wait in them: as many with one lane as with all."""
    least = [one.memory for one in points if (one.what, one.number) == (LANES, 1)]
    return median(least) if what == LANES and least else 0.0


def _same(points: Sequence[Point], what: str, number: int) -> list[Point]:
    return [one for one in points if (one.what, one.number) == (what, number)]


def _row(points: Sequence[Point], beside: float) -> Row:
    one = points[0]

    def typical(figure: Callable[[Point], float | None]) -> float | None:
        known = [value for value in map(figure, points) if value is not None]
        return median(known) if known else None

    memory = typical(lambda point: point.memory - beside / point.number) or 0.0
    backends = typical(lambda point: point.backends)
    return Row(
        what=one.what,
        number=one.number,
        cost_us=typical(lambda point: point.cost) or 0.0,
        cost_by_round=[round(point.cost, 1) for point in points],
        per_second=typical(lambda point: point.rate) or 0.0,
        memory_kb=memory / KILOBYTE if one.number >= ENOUGH[one.what] else None,
        memory_mb=memory * one.number / MEGABYTE,
        idle_cores=typical(lambda point: point.idle_cores),
        backend_mb=None if backends is None else backends / MEGABYTE,
    )
