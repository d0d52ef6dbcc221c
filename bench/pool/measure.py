"""Measure implementations in turns: a machine that changes its speed changes it for all."""

from __future__ import annotations

import asyncio
import gc
from array import array
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter, process_time
from typing import TYPE_CHECKING

from bench.quantile import quantile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.pool.implementations import Borrower, Implementation

POOL_SIZE = 10
BORROWERS = (10, 100, 500)
WARM_UP = 0.1
"""Seconds before each measurement: connections prepare their statement, caches fill."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure: `rounds` turns each, `seconds` by the number of borrowers.

    The more borrowers, the longer an unfair pool lets one of them wait; a turn must be longer than
    that for its p99 to be seen.
    """

    rounds: int
    seconds: dict[int, float]


FULL = Plan(rounds=9, seconds={10: 0.8, 100: 1.0, 500: 2.0})
QUICK = Plan(rounds=3, seconds={10: 0.25, 100: 0.3, 500: 0.6})


@dataclass(frozen=True, slots=True)
class Turn:
    """One implementation with one number of borrowers in one round. Times are seconds."""

    implementation: str
    borrowers: int
    operations: int
    wall: float
    client_cpu: float
    wait_mean: float
    wait_p50: float
    wait_p99: float
    wait_max: float
    fairness: float
    """Jain's index of operations per borrower: 1 when all got the same, 1/n when one got all."""
    fewest: int
    most: int

    @property
    def us_per_operation(self) -> float:
        return self.wall / self.operations * 1e6

    @property
    def cpu_us_per_operation(self) -> float:
        """This process's processor time; the server's is not in it."""
        return self.client_cpu / self.operations * 1e6


async def measure(dsn: str, implementations: Sequence[Implementation], plan: Plan) -> AsyncIterator[Turn]:
    """Run the plan; who comes first changes with every round."""
    for number in range(plan.rounds):
        first = number % len(implementations)
        order = [*implementations[first:], *implementations[:first]]
        for borrowers in BORROWERS:
            for implementation in order:
                async with implementation.open(dsn, POOL_SIZE) as borrower:
                    await _loop(implementation, borrower, borrowers, WARM_UP)
                    seconds = plan.seconds[borrowers]
                    yield await _loop(implementation, borrower, borrowers, seconds)


async def _loop(implementation: Implementation, borrower: Borrower, borrowers: int, seconds: float) -> Turn:
    tasks = borrowers if implementation.pooled else POOL_SIZE
    waits = [array("d") for _ in range(tasks)]
    gc.collect()
    gc.freeze()  # the collector stays on, as in a service, but does not walk what others left
    cpu, start = process_time(), perf_counter()
    async with asyncio.TaskGroup() as group:
        for own in waits:
            group.create_task(borrower(start + seconds, own))
    wall, cpu = perf_counter() - start, process_time() - cpu
    gc.unfreeze()
    return _turn(implementation.name, borrowers, wall, cpu, waits)


def _turn(name: str, borrowers: int, wall: float, cpu: float, waits: Sequence[array[float]]) -> Turn:
    merged = sorted(wait for own in waits for wait in own)
    shares = [len(own) for own in waits]
    return Turn(
        implementation=name,
        borrowers=borrowers,
        operations=len(merged),
        wall=wall,
        client_cpu=cpu,
        wait_mean=fmean(merged),
        wait_p50=quantile(merged, 0.5),
        wait_p99=quantile(merged, 0.99),
        wait_max=merged[-1],
        fairness=sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)),
        fewest=min(shares),
        most=max(shares),
    )
