"""What a transaction tells the server, and what is left of it afterwards."""

import asyncio
from contextlib import suppress

import asyncpg
import pytest
from lifeguard.database import (
    CallScope,
    Database,
    DatabaseUnavailable,
    DeadlineExceeded,
    TransactionAborted,
    call_scope,
)
from lifeguard.database.connect_options import quoted
from lifeguard.database.transactions import application_name, prelude
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, within
from packages.lifeguard.tests.stopwatch import Stopwatch

LIMITS = """
SELECT name, setting FROM pg_settings
WHERE name IN ('application_name', 'statement_timeout', 'lock_timeout',
               'idle_in_transaction_session_timeout')
"""


async def limits(connection: object) -> dict[str, str]:
    rows = await connection.fetch(LIMITS)  # type: ignore[attr-defined]  # any kind of connection
    return {row["name"]: row["setting"] for row in rows}


async def count(database: Database, table: str) -> int:
    async with database.connection() as connection:
        value: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
        return value


async def test_the_request_is_named_in_pg_stat_activity_while_it_lasts(
    database: Database, postgres: PostgresServer
) -> None:
    call_scope.set(CallScope("req-42"))
    async with database.transaction() as transaction:
        pid = await transaction.fetchval("SELECT pg_backend_pid()")
        during = [s["pid"] for s in await postgres.backends(application_name="ledger:req-42")]
    after = [s["pid"] for s in await postgres.backends(application_name="ledger:req-42")]
    assert during == [pid]
    assert after == []


async def test_begin_carries_name_and_timeouts_in_one_round_trip(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    execute = asyncpg.Connection.execute

    async def spy(self: asyncpg.Connection, query: str, *args: object, **more: object) -> str:
        sent.append(query)
        return await execute(self, query, *args, **more)  # type: ignore[arg-type]  # passed on

    async with database.connection():
        pass
    monkeypatch.setattr(asyncpg.Connection, "execute", spy)
    async with database.transaction():
        pass
    assert len(sent) == 2
    assert sent[0].startswith("BEGIN; SET LOCAL application_name = 'ledger'; SET LOCAL ")
    assert sent[1] == "COMMIT"


async def test_what_was_set_for_the_transaction_is_gone_after_it(make_database: MakeDatabase) -> None:
    database = await make_database(pool_max_size=1)
    call_scope.set(within(5, tag="req-1"))
    async with database.transaction() as transaction:
        inside = await limits(transaction)
    call_scope.set(None)
    async with database.connection() as connection:
        outside = await limits(connection)
    assert inside["application_name"] == "ledger:req-1"
    assert int(inside["statement_timeout"]) <= 5000
    assert outside == {
        "application_name": "ledger",
        "statement_timeout": "10000",
        "lock_timeout": "3000",
        "idle_in_transaction_session_timeout": "30000",
    }
    assert database.primary.stats().resets == 0


async def test_the_deadline_shortens_what_the_server_waits_for(database: Database) -> None:
    call_scope.set(within(2))
    async with database.transaction() as transaction:
        inside = await limits(transaction)
    assert 1000 < int(inside["statement_timeout"]) <= 2000
    assert 1000 < int(inside["lock_timeout"]) <= 2000
    assert inside["idle_in_transaction_session_timeout"] == "30000"


async def test_a_block_that_raises_leaves_nothing_behind(database: Database, table: str) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert await count(database, table) == 1


async def test_it_is_rolled_back_before_the_error_is_seen(database: Database, table: str) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"UPDATE {table} SET n = 1 WHERE id = 1")
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    stats = database.primary.stats()
    assert (stats.returning, stats.idle) == (0, stats.size)


async def test_a_cancelled_block_is_rolled_back(database: Database, table: str) -> None:
    inserted = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            inserted.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inserted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(database, table) == 1
    assert database.primary.stats().used == 0


async def test_a_savepoint_undoes_what_fails_inside_it_alone(database: Database, table: str) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
        with pytest.raises(asyncpg.UniqueViolationError):
            async with transaction.transaction():
                await transaction.execute(f"INSERT INTO {table} VALUES (3, 0), (1, 0)")
        await transaction.execute(f"INSERT INTO {table} VALUES (4, 0)")
    async with database.connection() as connection:
        rows = await connection.fetch(f"SELECT id FROM {table} ORDER BY id")
    assert [row["id"] for row in rows] == [1, 2, 4]


async def test_a_swallowed_error_is_no_commit(database: Database, table: str) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            with suppress(asyncpg.UniqueViolationError):
                await transaction.execute(f"INSERT INTO {table} VALUES (1, 0)")

    with pytest.raises(TransactionAborted):
        await work()
    assert await count(database, table) == 1


async def test_a_transaction_that_is_ended_by_hand_is_no_commit(database: Database, table: str) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            await transaction.execute("ROLLBACK")

    with pytest.raises(TransactionAborted):
        await work()
    assert await count(database, table) == 1


async def test_a_constraint_that_fails_at_commit_is_seen(database: Database, table: str) -> None:
    async with database.connection() as connection:
        await connection.execute(
            f"CREATE TABLE parts (thing int REFERENCES {table} DEFERRABLE INITIALLY DEFERRED)"
        )
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO parts VALUES (99)")
    assert await count(database, "parts") == 0


async def test_a_read_only_transaction_refuses_to_write(database: Database, table: str) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with database.transaction(read_only=True) as transaction:
            await transaction.execute(f"DELETE FROM {table}")
    assert await count(database, table) == 1


async def test_isolation_and_deferrable_reach_the_server(database: Database) -> None:
    async with database.transaction(isolation="serializable", read_only=True, deferrable=True) as transaction:
        row = await transaction.fetchrow(
            "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'),"
            " current_setting('transaction_deferrable')"
        )
    assert row is not None
    assert tuple(row) == ("serializable", "on", "on")


async def test_a_cursor_reads_in_parts(database: Database) -> None:
    async with database.transaction() as transaction:
        seen = [row[0] async for row in transaction.cursor("SELECT generate_series(1, 5)", prefetch=2)]
    assert seen == [1, 2, 3, 4, 5]


async def test_a_session_that_the_server_ends_is_an_unavailable_database(
    database: Database, table: str, postgres: PostgresServer
) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            await postgres.kill(await transaction.fetchval("SELECT pg_backend_pid()"))
            await transaction.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await work()
    assert await count(database, table) == 1


async def test_a_session_that_ended_before_commit_wrote_nothing_for_sure(
    database: Database, table: str, postgres: PostgresServer
) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            await postgres.kill(await transaction.fetchval("SELECT pg_backend_pid()"))
            await eventually(transaction.is_closed)

    with pytest.raises(DatabaseUnavailable):
        await work()
    assert await count(database, table) == 1


async def test_no_commit_is_sent_after_the_deadline(database: Database, table: str) -> None:
    async def work() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
            scope = call_scope.get()
            assert scope is not None
            scope.deadline = asyncio.get_running_loop().time()

    call_scope.set(within(5))
    with pytest.raises(DeadlineExceeded):
        await work()
    call_scope.set(None)
    assert await count(database, table) == 1


async def test_a_statement_ends_with_the_deadline_and_the_connection_is_kept(
    make_database: MakeDatabase,
) -> None:
    database = await make_database(pool_max_size=1)
    call_scope.set(within(0.2))
    async with Stopwatch() as watch:
        with pytest.raises((TimeoutError, asyncpg.QueryCanceledError)):
            async with database.transaction() as transaction:
                await transaction.fetchval("SELECT pg_sleep(10)")
    assert watch.seconds < 0.45
    call_scope.set(None)
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    assert database.primary.stats().opened == 1


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("", "ledger"),
        ("req-1", "ledger:req-1"),
        ("x" * 128, "ledger:" + "x" * 56),
        ("a\nb\x00é", "ledger:a?b??"),
    ],
)
def test_application_names_are_what_the_server_would_keep(tag: str, name: str) -> None:
    assert application_name("ledger", tag) == name
    assert len(name.encode()) <= 63


@pytest.mark.parametrize("text", ["plain", "it's", "back\\slash", "'; DROP TABLE things; --", "\\'"])
@pytest.mark.parametrize("conforming", ["on", "off"])
async def test_no_text_escapes_from_its_quotes(database: Database, text: str, conforming: str) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(
            f"SET LOCAL escape_string_warning = off; SET LOCAL standard_conforming_strings = {conforming}"
        )
        await transaction.execute(f"SET LOCAL application_name = {quoted(text)}")
        assert await transaction.fetchval("SHOW application_name") == text


async def test_the_prelude_never_switches_a_timeout_off() -> None:
    call_scope.set(within(0.0004))
    limits = {"statement_timeout": 10.0, "lock_timeout": 3.0}
    assert "SET LOCAL statement_timeout = 1;" in prelude("ledger", limits) + ";"
