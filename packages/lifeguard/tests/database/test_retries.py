"""Transactions that lose against others are repeated: with a bound, and within the deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import asyncpg
import pytest
from lifeguard.database import (
    Database,
    DatabaseUnavailable,
    SchemaChanged,
    Transaction,
    attempts,
    call_scope,
    retry_idempotent,
)
from lifeguard.testing.servers import PostgresServer
from lifeguard.web.problems import problem_of

from packages.lifeguard.tests.database.conftest import MakeDatabase, kill_at_work, within
from packages.lifeguard.tests.stopwatch import Stopwatch


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
    call_scope.set(within(0.2))
    async with Stopwatch() as watch:
        with pytest.raises((asyncpg.SerializationError, TimeoutError)):
            await database.run_in_transaction(lose, attempts=1_000_000)
    assert watch.seconds < 0.45


async def be_killed(transaction: Transaction, postgres: PostgresServer) -> None:
    """While it waits for an answer."""
    await kill_at_work(postgres, transaction)


async def become_read_only(transaction: Transaction, _: PostgresServer) -> None:
    """As a server that was demoted says it."""
    await transaction.execute("SET TRANSACTION READ ONLY; CREATE TABLE refused ()")


@pytest.mark.parametrize("patience", [0, 60])
async def test_a_server_that_takes_no_writes_is_tried_until_the_patience_with_an_outage_is_over(
    make_database: MakeDatabase, postgres: PostgresServer, patience: float
) -> None:
    """More often than `attempts` says: the pool looks for the new primary meanwhile."""
    database = await make_database(pool_outage_patience=patience)
    calls = 0

    async def work(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        if calls < 5:
            await become_read_only(transaction, postgres)

    if patience:
        await database.run_in_transaction(work, attempts=2)
        assert calls == 5
    else:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await database.run_in_transaction(work, attempts=2)
        assert calls == 2


async def see_a_type_change(transaction: Transaction, postgres: PostgresServer) -> None:
    """Not in the first statement, which the pool repeats by itself."""
    name = await transaction.fetchval("SELECT current_database()")
    async with postgres.connect(name) as admin:
        await admin.execute("ALTER TABLE others ALTER COLUMN n TYPE bigint")
    await transaction.fetch("SELECT * FROM others")


Trouble = Callable[[Transaction, PostgresServer], Awaitable[None]]
TROUBLES = [be_killed, become_read_only, see_a_type_change]


@pytest.fixture
async def lone(make_database: MakeDatabase) -> Database:
    """With a single connection, which has a plan for the table `others`."""
    database = await make_database(pool_max_size=1)
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE others (n int)")
        await connection.fetch("SELECT * FROM others")
    return database


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_befalls_a_transaction_before_its_commit_is_repeated(
    lone: Database, table: str, postgres: PostgresServer, trouble: Trouble
) -> None:
    calls = 0

    async def work(transaction: Transaction) -> int:
        nonlocal calls
        calls += 1
        await transaction.execute(f"UPDATE {table} SET n = n + 1")
        if calls == 1:
            await trouble(transaction, postgres)
        return calls

    assert await lone.run_in_transaction(work) == 2
    async with lone.connection() as connection:
        assert await connection.fetchval(f"SELECT n FROM {table}") == 1


async def test_a_changed_schema_is_a_reason_to_come_back_where_nothing_repeats(
    lone: Database, postgres: PostgresServer
) -> None:
    async def endpoint() -> None:
        async with lone.transaction() as transaction:
            await transaction.execute("SELECT 1")
            await see_a_type_change(transaction, postgres)

    with pytest.raises(SchemaChanged) as caught:
        await endpoint()
    problem = problem_of(caught.value)
    assert (problem.status, problem.headers) == (503, {"Retry-After": "1"})


async def test_idempotent_reads_of_ones_own_are_repeated(
    make_database: MakeDatabase, postgres: PostgresServer
) -> None:
    """Also where the pool repeats none by itself."""
    database = await make_database(pool_outage_patience=0)
    pids: list[int] = []

    async def read() -> int:
        async with database.read() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            if len(pids) == 1:
                await kill_at_work(postgres, connection)
            value: int = await connection.fetchval("SELECT 42")
            return value

    assert await retry_idempotent(read) == 42
    assert len(pids) == 2


async def test_an_open_breaker_is_not_asked_again(make_database: MakeDatabase) -> None:
    database = await make_database(breaker_fail_max=1, breaker_reset_timeout=10)
    database.breaker.cannot_connect()
    calls = 0

    async def read() -> None:
        nonlocal calls
        calls += 1
        async with database.read():
            pass

    with pytest.raises(DatabaseUnavailable, match="breaker is open"):
        await retry_idempotent(read)
    assert calls == 1


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

    monkeypatch.setattr(attempts, "_log", Log())
    with pytest.raises(asyncpg.SerializationError):
        await database.run_in_transaction(lose, attempts=3)
    assert used == [0, 0]
