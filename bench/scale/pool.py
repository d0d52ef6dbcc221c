"""The pool with many waiters, connections or lanes: a process of its own for each number of them.

Reads a plan as JSON on stdin, writes what it has measured as JSON on stdout. A fresh process has no memory
that an earlier number has left behind.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import uvloop
from lifeguard import Pool

from bench.processes import allow_many_connections, children, private_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifeguard.pool import PoolStats

TEN, TWENTY, BORROWERS_OF_LANES = 10, 20, 200
PATIENCE = 120.0
"""Seconds that a borrower waits: nobody is refused here, however slow the machine."""
LOOK_EVERY = 0.005
WORK = "SELECT 1"


@dataclass(frozen=True, slots=True)
class Plan:
    """`number` of `what`: waiters, connections, or lanes."""

    what: str
    number: int
    dsn: str
    postmaster: int
    seconds: float

    @property
    def connections(self) -> int:
        return {"waiters": TEN, "connections": self.number, "lanes": TWENTY}[self.what]

    @property
    def borrowers(self) -> int:
        return {
            "waiters": TEN + self.number,
            "connections": self.number,
            "lanes": BORROWERS_OF_LANES,
        }[self.what]


@dataclass(frozen=True, slots=True)
class Measured:
    """Of all borrowers together. Seconds, bytes."""

    operations: int
    seconds: float
    processor: float
    memory: int
    """By which the process grew with them, before any of them had its turn."""
    backends: int
    """Private memory of all backends."""


async def measure(plan: Plan) -> Measured:
    """Borrow, ask, and return, over and over, as in `bench.pool`."""
    run = _Run(plan)
    without = private_memory(os.getpid())
    async with run.pool:
        await _until(lambda: run.pool.stats().idle == plan.connections)
        with_connections = private_memory(os.getpid())
        tasks = [asyncio.ensure_future(run.borrow(lane)) for lane in run.lanes()]
        # Not as many as there are connections have one: the pool keeps some from lanes that give none back.
        await _until(lambda: _asking(run.pool.stats()) == plan.borrowers)
        if plan.what == "connections":
            memory = with_connections - without
        else:
            memory = private_memory(os.getpid()) - with_connections
        run.begin.set()
        await run.once.wait()
        began, processor, operations = time.monotonic(), time.process_time(), run.operations
        await asyncio.sleep(plan.seconds)
        seconds, spent = time.monotonic() - began, time.process_time() - processor
        done = run.operations - operations
        backends = sum(map(private_memory, children(plan.postmaster)))
        run.over = True
        await asyncio.gather(*tasks)
    return Measured(done, seconds, spent, memory, backends)


def _asking(stats: PoolStats) -> int:
    return stats.used + stats.waiting


async def _until(condition: Callable[[], bool]) -> None:
    """Look until it is so: nothing of the kind is announced."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(LOOK_EVERY)


class _Run:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.over = False
        self.operations = 0
        self.begin = asyncio.Event()
        """Until then whoever has a connection keeps it."""
        self.once = asyncio.Event()
        """Set when there have been as many operations as there are borrowers."""
        self.pool = Pool(
            plan.dsn,
            min_size=plan.connections,
            max_size=plan.connections,
            max_waiting=plan.borrowers,
            queue_target=0,
            acquire_timeout=PATIENCE,
            connect_timeout=PATIENCE,
        )

    def lanes(self) -> Iterator[str | None]:
        """A lane for each borrower."""
        for number in range(self._plan.borrowers):
            yield f"lane {number % self._plan.number}" if self._plan.what == "lanes" else None

    async def borrow(self, lane: str | None) -> None:
        while not self.over:
            async with self.pool.acquire(lane=lane) as connection:
                await self.begin.wait()
                await connection.fetchval(WORK)
            self.operations += 1
            if self.operations == self._plan.borrowers:
                self.once.set()


def main() -> None:
    allow_many_connections()
    plan = Plan(**json.load(sys.stdin))
    gc.freeze()
    json.dump(asdict(uvloop.run(measure(plan))), sys.stdout)


if __name__ == "__main__":
    main()
