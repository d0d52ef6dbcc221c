"""`bench.scale`: what it measures comes to its end, and is told for each of them."""

import os
from collections.abc import Mapping

import pytest

from bench.scale.pool import BORROWERS_OF_LANES, TEN, TWENTY, Plan, measure
from bench.scale.report import KILOBYTE, MEGABYTE, rows_of, targets_of
from bench.scale.trial import CONNECTIONS, IDLE, LANES, WAITERS, Point


@pytest.mark.parametrize(
    ("what", "number", "connections", "borrowers"),
    [
        (WAITERS, 3, TEN, TEN + 3),
        (CONNECTIONS, 4, 4, 4),
        (LANES, 3, TWENTY, BORROWERS_OF_LANES),
    ],
)
async def test_so_many_borrow_until_the_time_is_over(
    what: str, number: int, connections: int, borrowers: int, database_url: str
) -> None:
    plan = Plan(what, number, database_url, os.getpid(), seconds=0.05)
    assert (plan.connections, plan.borrowers) == (connections, borrowers)
    measured = await measure(plan)
    assert measured.processor > 0


def points(what: str, costs: dict[int, list[float]], memory: Mapping[int, float]) -> list[Point]:
    """A point a round, for each number."""
    return [
        Point(what, number, cost, 1000, memory[number] / number)
        for number, by_round in costs.items()
        for cost in by_round
    ]


def test_growth_is_told_within_a_round_and_for_each_of_them() -> None:
    """The second round met a slow machine; what the borrowers take anyway is not the lanes'."""
    costs = {1: [10.0, 100.0, 20.0], 50: [12.0, 120.0, 24.0], 200: [14.0, 140.0, 28.0]}
    memory = {1: MEGABYTE, 50: MEGABYTE + 50 * KILOBYTE, 200: MEGABYTE + 400 * KILOBYTE}
    rows = rows_of(points(LANES, costs, memory))
    assert [row.memory_kb for row in rows] == [None, 1, 2]
    told = [(target.promise, target.at, round(target.value, 6), target.met) for target in targets_of(rows)]
    assert told == [
        ("cpu of an operation", "200 / 1 lanes", 1.4, True),
        ("memory for each", "200 / 50 lanes", 2, False),
    ]


def test_no_growth_is_told_of_a_single_number() -> None:
    assert not targets_of(rows_of(points(IDLE, {1: [10.0]}, {1: 5.0})))
