"""A call ends with its deadline as a whole, however many round trips it takes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from lifeguard.database import Database, TransactionAborted, call_scope
from lifeguard.testing.proxy import Proxy

from packages.lifeguard.tests.database.conftest import MakeDatabase, within
from packages.lifeguard.tests.stopwatch import Stopwatch

ROUND_TRIP = 0.12
BUDGET = 0.2
"""Seconds of the call: enough for one round trip, not for two."""
LATE = 0.25
"""Seconds past the deadline at which it must have ended."""

Call = Callable[[Any], Awaitable[object]]


async def iterate(connection: Any) -> None:
    async for _ in connection.cursor("SELECT generate_series(1, 1000)", prefetch=1):
        pass


async def fetch_from_cursor(connection: Any) -> None:
    cursor = await connection.cursor("SELECT generate_series(1, 1000)")
    while await cursor.fetch(1):
        pass


async def use_prepared(connection: Any) -> None:
    statement = await connection.prepare("SELECT $1::bigint[]")
    while True:
        await statement.fetchval([1])


async def make_savepoints(connection: Any) -> None:
    while True:
        async with connection.transaction():
            pass


async def copy(connection: Any) -> None:
    while True:
        await connection.copy_records_to_table("copied", records=[(1,)], columns=["n"])


CALLS: dict[str, Call] = {
    "fetch": lambda connection: connection.fetch("SELECT $1::bigint[]", [1]),
    "fetchrow": lambda connection: connection.fetchrow("SELECT $1::bigint[]", [1]),
    "fetchval": lambda connection: connection.fetchval("SELECT $1::bigint[]", [1]),
    "execute": lambda connection: connection.execute("SELECT $1::bigint[]", [1]),
    "executemany": lambda connection: connection.executemany("SELECT $1::bigint[]", [([1],)] * 3),
    "fetchmany": lambda connection: connection.fetchmany("SELECT $1::bigint[]", [([1],)] * 3),
    "prepare": use_prepared,
    "copy": copy,
}
IN_TRANSACTION: dict[str, Call] = {
    **CALLS,
    "cursor": iterate,
    "fetch from a cursor": fetch_from_cursor,
    "savepoints": make_savepoints,
}


@pytest.fixture
async def far(make_database: MakeDatabase, database_url: str) -> AsyncIterator[tuple[Database, Proxy]]:
    async with Proxy(database_url).serve() as proxy:
        yield await make_database(proxy.dsn, pool_max_size=1), proxy


@pytest.mark.parametrize("name", IN_TRANSACTION)
async def test_a_call_of_several_round_trips_ends_with_the_deadline(
    far: tuple[Database, Proxy], name: str
) -> None:
    database, proxy = far
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE copied (n int)")
    await database.primary.expire_connections()
    async with database.primary.acquire():
        pass  # a fresh session: it knows no types
    proxy.latency = ROUND_TRIP / 2
    call_scope.set(within(BUDGET + ROUND_TRIP))

    async def call() -> None:
        # Some would go on for ever.
        async with asyncio.timeout(20), database.transaction() as transaction:
            await IN_TRANSACTION[name](transaction)

    async with Stopwatch() as watch:
        with pytest.raises(TimeoutError):
            await call()
    assert watch.seconds < BUDGET + ROUND_TRIP + LATE
    call_scope.set(None)
    proxy.latency = 0
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_the_calls_of_an_array_on_a_fresh_session_end_after_a_second(
    far: tuple[Database, Proxy],
) -> None:
    database, proxy = far
    async with database.primary.acquire():
        pass
    proxy.latency = 0.3
    call_scope.set(within(1))

    async def call() -> None:
        async with database.connection() as connection:
            await connection.fetchval("SELECT $1::bigint[]", [1])

    async with Stopwatch() as watch:
        with pytest.raises(TimeoutError):
            await call()
    assert watch.seconds < 1.1


async def insert_too_slowly(connection: Any) -> None:
    await connection.execute("INSERT INTO things VALUES (2, 0)")
    async with asyncio.timeout(0.02):
        await asyncio.Event().wait()


async def run_a_statement_too_slowly(connection: Any) -> None:
    await connection.execute("INSERT INTO things VALUES (2, 0)")
    await connection.execute("SELECT pg_sleep(10)", timeout=0.02)


@pytest.mark.parametrize("budget", [10, None])
@pytest.mark.parametrize("fails", [insert_too_slowly, run_a_statement_too_slowly])
async def test_a_savepoint_that_timed_out_is_undone_and_the_transaction_goes_on(
    database: Database, table: str, fails: Call, budget: float | None
) -> None:
    call_scope.set(within(budget) if budget else None)
    async with database.transaction() as transaction:
        with suppress(TimeoutError):
            async with transaction.transaction():
                await fails(transaction)
        await transaction.execute(f"INSERT INTO {table} VALUES (3, 0)")
    assert await ids(database) == [1, 3]


async def test_nothing_is_committed_when_a_savepoint_was_not_undone_for_want_of_time(
    database: Database, table: str
) -> None:
    async def swallow() -> None:
        call_scope.set(within(0.4))
        async with database.transaction() as transaction:
            with suppress(TimeoutError):
                async with transaction.transaction():
                    await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
                    async with asyncio.timeout(0.6):
                        await asyncio.Event().wait()
            call_scope.set(within(10))  # as if there were time for a COMMIT

    with pytest.raises(TransactionAborted):
        await asyncio.create_task(swallow())
    call_scope.set(None)
    assert await ids(database) == [1]


async def test_nothing_is_committed_when_the_rollback_of_a_savepoint_was_broken_off(
    far: tuple[Database, Proxy],
) -> None:
    database, proxy = far
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE things (id int PRIMARY KEY, n int NOT NULL)")

    async def swallow() -> None:
        async with database.transaction() as transaction:
            savepoint: Any = transaction.transaction()
            await savepoint.start()
            await transaction.execute("INSERT INTO things VALUES (2, 0)")
            proxy.latency = ROUND_TRIP
            with suppress(TimeoutError):
                async with asyncio.timeout(ROUND_TRIP / 2):
                    await savepoint.rollback()
            proxy.latency = 0

    with pytest.raises(TransactionAborted):
        await swallow()
    assert await ids(database) == []


async def ids(database: Database) -> list[int]:
    async with database.connection() as connection:
        return [row["id"] for row in await connection.fetch("SELECT id FROM things ORDER BY id")]
