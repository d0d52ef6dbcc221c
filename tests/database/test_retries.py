"""Transactions that lose against others are repeated: with a bound, and within the deadline."""

import asyncio
from functools import partial

import asyncpg
import pytest

from app.database import Database, Transaction, call_scope, retries
from tests.database.conftest import within


async def test_work_gives_its_result(database: Database) -> None:
    async def work(transaction: Transaction) -> int:
        value: int = await transaction.fetchval("SELECT 42")
        return value

    assert await database.run_in_transaction(work) == 42


async def test_a_serialization_failure_is_repeated_on_what_the_winner_left(
    database: Database, table: str
) -> None:
    snapshots: list[int] = []

    async def increment(transaction: Transaction) -> None:
        snapshots.append(await transaction.fetchval(f"SELECT n FROM {table}"))
        if len(snapshots) == 1:  # somebody else is faster, once
            async with database.connection() as rival:
                await rival.execute(f"UPDATE {table} SET n = 10")
        await transaction.execute(f"UPDATE {table} SET n = $1", snapshots[-1] + 1)

    await database.run_in_transaction(increment, isolation="repeatable_read")
    async with database.connection() as connection:
        assert await connection.fetchval(f"SELECT n FROM {table}") == 11
    assert snapshots == [0, 10]


async def test_a_serialization_failure_that_only_commit_finds_is_repeated(
    database: Database, table: str
) -> None:
    """Write skew: each reads what the other writes, and neither statement fails."""
    together = asyncio.Barrier(2)
    calls = 0

    async def write_the_other(transaction: Transaction, mine: int, other: int) -> None:
        nonlocal calls
        calls += 1
        await transaction.fetch(f"SELECT * FROM {table} WHERE id = $1", mine)
        if calls <= 2:
            await together.wait()
        await transaction.execute(f"UPDATE {table} SET n = n + 1 WHERE id = $1", other)
        if calls <= 2:
            await together.wait()

    async with database.connection() as connection:
        await connection.execute(f"INSERT INTO {table} VALUES (2, 0)")
    await asyncio.gather(
        *(
            database.run_in_transaction(
                partial(write_the_other, mine=mine, other=other), isolation="serializable"
            )
            for mine, other in ((1, 2), (2, 1))
        )
    )
    async with database.connection() as connection:
        assert await connection.fetchval(f"SELECT sum(n) FROM {table}") == 2
    assert calls == 3


async def test_a_deadlock_is_repeated(database: Database, table: str) -> None:
    together = asyncio.Barrier(2)
    calls = 0

    async def update_both(transaction: Transaction, first: int, second: int) -> None:
        nonlocal calls
        calls += 1
        update = f"UPDATE {table} SET n = n + 1 WHERE id = $1"
        await transaction.execute("SET LOCAL deadlock_timeout = '10ms'")
        await transaction.execute(update, first)
        if calls <= 2:
            await together.wait()
        await transaction.execute(update, second)

    async with database.connection() as connection:
        await connection.execute(f"INSERT INTO {table} VALUES (2, 0)")
    await asyncio.gather(
        *(
            database.run_in_transaction(partial(update_both, first=first, second=second))
            for first, second in ((1, 2), (2, 1))
        )
    )
    async with database.connection() as connection:
        assert await connection.fetchval(f"SELECT sum(n) FROM {table}") == 4
    assert calls == 3


async def lose(transaction: Transaction) -> None:
    """As the server ends a transaction for the sake of another."""
    await transaction.execute("DO $$ BEGIN RAISE SQLSTATE '40001'; END $$")


async def test_attempts_are_bounded_and_the_last_error_is_raised(database: Database) -> None:
    calls = 0

    async def work(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        await lose(transaction)

    with pytest.raises(asyncpg.SerializationError):
        await database.run_in_transaction(work, attempts=3)
    assert calls == 3


async def test_no_attempt_begins_after_the_deadline(database: Database) -> None:
    loop = asyncio.get_running_loop()
    call_scope.set(within(0.2))
    started = loop.time()
    with pytest.raises((asyncpg.SerializationError, TimeoutError)):
        await database.run_in_transaction(lose, attempts=1_000_000)
    assert loop.time() - started < 0.45


async def test_other_errors_are_not_repeated(database: Database, table: str) -> None:
    calls = 0

    async def work(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        await transaction.execute(f"INSERT INTO {table} VALUES (1, 0)")

    with pytest.raises(asyncpg.UniqueViolationError):
        await database.run_in_transaction(work)
    assert calls == 1


async def test_no_connection_is_held_during_the_pause(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    class Log:
        def info(self, event: str, **details: object) -> None:
            used.append(database.primary.stats().used)

    monkeypatch.setattr(retries, "_log", Log())
    with pytest.raises(asyncpg.SerializationError):
        await database.run_in_transaction(lose, attempts=3)
    assert used == [0, 0]
