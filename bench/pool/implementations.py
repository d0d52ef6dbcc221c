"""One way each of borrowing a connection, running `SELECT 1` and giving it back.

Every implementation is an async context manager that gives a borrower: a coroutine function that
borrows again and again until a given instant and notes how long each borrow took. They are written
as their users write them, each in its own loop, so that no shared wrapper adds to what is measured;
all pay for the same two clock readings and one note an operation.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
from lifeguard.pool import Pool
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from array import array

    Waits: TypeAlias = array[float]
    Driver: TypeAlias = asyncpg.Connection[asyncpg.Record]

Borrower: TypeAlias = "Callable[[float, Waits], Coroutine[None, None, None]]"
"""Loops until `perf_counter()` reaches the first argument; appends seconds waited to the second."""

MANY = 20
"""Lanes, more than there are connections."""
_NO_STOP_IS_SO_LONG = 3.0  # seconds

Opener: TypeAlias = Callable[[str, int], AbstractAsyncContextManager[Borrower]]
"""Takes the DSN and the number of connections."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """A contestant. The floor has no pool: its tasks are as many as its connections."""

    name: str
    open: Opener
    pooled: bool = True


@asynccontextmanager
async def no_pool(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """The floor: each task owns a connection, so there is nothing to borrow and nobody to wake.

    What is left is the driver, the event loop and the server. The number of tasks is the number of
    connections whatever the number of borrowers, because that is the work which the server and the
    driver must do for any of them: a pool of ten never has more than ten queries under way. Above
    ten borrowers the floor therefore leaves out what no pool can: one hand-off between two tasks
    per operation. The FIFO hand-off below shows how much that is.
    """
    connections = [await asyncpg.connect(dsn) for _ in range(size)]
    free = list(connections)

    async def borrower(until: float, waits: Waits) -> None:
        connection = free.pop()
        asked = perf_counter()
        while asked < until:
            waits.append(perf_counter() - asked)
            await connection.fetchval("SELECT 1")
            asked = perf_counter()
        free.append(connection)

    yield borrower
    for connection in connections:
        await connection.close()


class HandOff:
    """The least a pool can do: a list of idle connections and a queue of waiters, first come first
    served. It opens nothing, checks nothing, resets nothing and times nothing out.
    """

    def __init__(self, connections: list[Driver]) -> None:
        self._idle = list(connections)
        self._waiters: deque[asyncio.Future[Driver]] = deque()

    async def acquire(self) -> Driver:
        if self._idle:
            return self._idle.pop()
        waiter: asyncio.Future[Driver] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return await waiter

    def release(self, connection: Driver) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)


@asynccontextmanager
async def fifo_hand_off(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """The reference for the least possible cost of sharing; not a pool one could use."""
    connections = [await asyncpg.connect(dsn) for _ in range(size)]
    pool = HandOff(connections)

    async def borrower(until: float, waits: Waits) -> None:
        asked = perf_counter()
        while asked < until:
            connection = await pool.acquire()
            try:
                waits.append(perf_counter() - asked)
                await connection.fetchval("SELECT 1")
            finally:
                pool.release(connection)
            asked = perf_counter()

    yield borrower
    for connection in connections:
        await connection.close()


def _borrower_of(pool: Pool | asyncpg.Pool[asyncpg.Record]) -> Borrower:
    """The same code for both: ours has the face of asyncpg's."""

    async def borrower(until: float, waits: Waits) -> None:
        asked = perf_counter()
        while asked < until:
            async with pool.acquire() as connection:
                waits.append(perf_counter() - asked)
                await connection.fetchval("SELECT 1")
            asked = perf_counter()

    return borrower


def _borrower_in_lanes(pool: Pool, lanes: int) -> Borrower:
    """The same, but each borrower names its lane: they are dealt out to so many."""
    names = cycle([f"lane {number}" for number in range(lanes)])

    async def borrower(until: float, waits: Waits) -> None:
        lane = next(names)
        asked = perf_counter()
        while asked < until:
            async with pool.acquire(lane=lane) as connection:
                waits.append(perf_counter() - asked)
                await connection.fetchval("SELECT 1")
            asked = perf_counter()

    return borrower


@asynccontextmanager
async def _lifeguard(dsn: str, size: int) -> AsyncIterator[Pool]:
    """Ours with its defaults but for the size; and nobody is refused when the machine stops for a moment."""
    async with Pool(dsn, min_size=size, max_size=size, queue_target=_NO_STOP_IS_SO_LONG) as pool:
        while pool.get_idle_size() < size:  # noqa: ASYNC110 - the others wait when they open
            await asyncio.sleep(0.005)
        yield pool


@asynccontextmanager
async def lifeguard_pool(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """Nobody names a lane."""
    async with _lifeguard(dsn, size) as pool:
        yield _borrower_of(pool)


@asynccontextmanager
async def lifeguard_one_lane(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """All name the same lane."""
    async with _lifeguard(dsn, size) as pool:
        yield _borrower_in_lanes(pool, 1)


@asynccontextmanager
async def lifeguard_many_lanes(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """As many borrowers in each of twenty lanes."""
    async with _lifeguard(dsn, size) as pool:
        yield _borrower_in_lanes(pool, MANY)


@asynccontextmanager
async def asyncpg_pool(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """asyncpg's own pool as it comes: a reset query at every release, no acquire timeout."""
    async with asyncpg.create_pool(dsn, min_size=size, max_size=size) as pool:
        yield _borrower_of(pool)


@asynccontextmanager
async def psycopg_pool(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """psycopg's pool, in autocommit so that an operation is one round trip as for the others."""
    pool = AsyncConnectionPool(dsn, min_size=size, max_size=size, open=False, kwargs={"autocommit": True})
    async with pool:
        await pool.wait()

        async def borrower(until: float, waits: Waits) -> None:
            asked = perf_counter()
            while asked < until:
                async with pool.connection() as connection:
                    waits.append(perf_counter() - asked)
                    cursor = await connection.execute("SELECT 1")
                    await cursor.fetchone()
                asked = perf_counter()

        yield borrower


@asynccontextmanager
async def sqlalchemy_pool(dsn: str, size: int) -> AsyncIterator[Borrower]:
    """SQLAlchemy's async engine over asyncpg, as it comes but for the size and no overflow."""
    engine = create_async_engine(
        dsn.replace("postgresql://", "postgresql+asyncpg://"), pool_size=size, max_overflow=0
    )
    select_one = text("SELECT 1")

    async def borrower(until: float, waits: Waits) -> None:
        asked = perf_counter()
        while asked < until:
            async with engine.connect() as connection:
                waits.append(perf_counter() - asked)
                (await connection.execute(select_one)).scalar()
            asked = perf_counter()

    yield borrower
    await engine.dispose()


FLOOR = Implementation("no pool (floor)", no_pool, pooled=False)
REFERENCE = Implementation("FIFO hand-off", fifo_hand_off)
OURS = Implementation("Lifeguard", lifeguard_pool)
ONE_LANE = Implementation("Lifeguard, one lane", lifeguard_one_lane)
MANY_LANES = Implementation(f"Lifeguard, {MANY} lanes", lifeguard_many_lanes)
ASYNCPG = Implementation("asyncpg.Pool", asyncpg_pool)
PSYCOPG = Implementation("psycopg_pool", psycopg_pool)
SQLALCHEMY = Implementation("SQLAlchemy", sqlalchemy_pool)

ALL = (FLOOR, REFERENCE, OURS, ONE_LANE, MANY_LANES, ASYNCPG, PSYCOPG, SQLALCHEMY)
