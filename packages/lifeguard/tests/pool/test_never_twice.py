"""What the pool repeats unseen is never done twice, and what a failed repeat leaves is never committed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Lease, StatementNotSent
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import borrow_all
from packages.lifeguard.tests.pool.conftest import Events, MakePool

Call = Callable[[Lease], Awaitable[Any]]

PROCEDURES = """
CREATE TABLE things (a int);
CREATE PROCEDURE forgets() LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO things VALUES (1); COMMIT; EXECUTE 'EXECUTE nosuch'; END $$;
CREATE FUNCTION counts() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
  PERFORM nextval('numbers'); EXECUTE 'EXECUTE nosuch'; RETURN 1; END $$;
CREATE SEQUENCE numbers;
"""


class TestPreparedOnly:
    """asyncpg prepares without a Sync: what is then not run leaves a transaction, and its locks, behind."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda lease: lease.executemany("INSERT INTO things VALUES ($1)", []),
            lambda lease: lease.executemany("INSERT INTO things VALUES ($1)", iter([])),
            lambda lease: lease.fetchmany("INSERT INTO things VALUES ($1) RETURNING a", []),
            lambda lease: lease.fetch("SELECT * FROM things WHERE a = $1", 3_000_000_000),
            lambda lease: lease.fetch("SELECT * FROM things WHERE a = $1", "x"),
            lambda lease: lease.fetch("SELECT * FROM things WHERE a = $1"),
            lambda lease: lease.prepare("SELECT * FROM things"),
        ],
        ids=[
            "no rows",
            "no rows of an iterator",
            "fetchmany",
            "too large",
            "wrong type",
            "too few",
            "prepare",
        ],
    )
    async def test_no_lock_and_no_transaction_is_left(
        self, make_pool: MakePool, database_url: str, call: Call
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int)")
        async with pool.acquire() as lease:
            await asyncio.gather(call(lease), return_exceptions=True)
        await eventually(lambda: pool.get_idle_size() == 1)
        other = await asyncpg.connect(database_url)
        await other.execute("SET lock_timeout = '1s'; ALTER TABLE things ADD b int")
        await other.close()
        async with pool.acquire() as lease, lease.transaction(isolation="serializable"):
            assert await lease.fetchval("SHOW transaction_isolation") == "serializable"


class TestOnce:
    async def test_rows_before_a_wrong_one_of_executemany(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int, b int[])")
        rows: list[tuple[int, list[object]]] = [(n, [n]) for n in range(3000)]
        async with pool.acquire() as lease, lease.transaction():
            with pytest.raises(asyncpg.DataError):
                await lease.executemany("INSERT INTO things VALUES ($1, $2)", [*rows, (1, ["x"])])
        assert await pool.fetchval("SELECT count(*) = count(DISTINCT a) FROM things")

    @pytest.mark.parametrize(
        "call",
        [
            lambda lease: lease.execute("BEGIN; INSERT INTO things VALUES (1); COMMIT; DEALLOCATE nosuch"),
            lambda lease: lease.execute("CALL forgets()"),
            lambda lease: lease.execute("/* route=x */ CALL forgets()"),
            lambda lease: lease.fetch("-- x\nCALL forgets()"),
        ],
        ids=["several", "procedure", "with a tag", "with a comment"],
    )
    async def test_what_was_committed_before_the_error(
        self, make_pool: MakePool, database_url: str, call: Call
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(PROCEDURES)
        for calls in (1, 2):
            async with pool.acquire() as lease:
                with pytest.raises(asyncpg.InvalidSQLStatementNameError):
                    await call(lease)
            assert await pool.fetchval("SELECT count(*) FROM things") == calls

    async def test_what_a_function_does_beside_its_transaction(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(PROCEDURES)
        for calls in (1, 2):
            with pytest.raises(asyncpg.InvalidSQLStatementNameError):
                await pool.fetchval("SELECT counts()")
            assert await pool.fetchval("SELECT last_value FROM numbers") == calls


class TestWhatIsTheBorrowers:
    async def test_its_settings_outlast_a_repeat(self, make_pool: MakePool, database_url: str) -> None:
        async def init(connection: asyncpg.Connection) -> None:
            await connection.execute("SET search_path = a")

        admin = await asyncpg.connect(database_url)
        await admin.execute(
            "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (n int); CREATE TABLE b.t (n int)"
        )
        pool = await make_pool(database_url, max_size=1, init=init)
        query = "INSERT INTO t VALUES (1) RETURNING *"
        async with pool.acquire() as lease:
            await lease.execute("SET search_path = b")
            await lease.fetchrow(query)
            await admin.execute("ALTER TABLE b.t ADD x int; ALTER TABLE a.t ADD x int")
            await lease.fetchrow(query)
            assert await lease.fetchval("SHOW search_path") == "b"
        assert await admin.fetchval("SELECT count(*) FROM a.t") == 0
        await admin.close()

    @pytest.mark.parametrize("how", ["raises", "takes too long"])
    async def test_what_follows_a_failed_repeat_is_not_committed_by_itself(
        self, make_pool: MakePool, database_url: str, how: str
    ) -> None:
        calls = 0

        async def init(connection: asyncpg.Connection) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                await (connection.execute("SELECT 1 / 0") if how == "raises" else asyncio.sleep(60))

        admin = await asyncpg.connect(database_url)
        await admin.execute("CREATE TABLE t (n int); CREATE TABLE u (n int)")
        pool = await make_pool(database_url, max_size=1, init=init)
        await pool.fetch("SELECT * FROM t")
        await admin.execute("ALTER TABLE t ADD x int")

        async def work() -> None:
            async with pool.acquire() as lease, lease.transaction():
                try:
                    async with asyncio.timeout(0.3):
                        await lease.fetch("SELECT * FROM t")
                except (TimeoutError, asyncpg.PostgresError):
                    pass
                await lease.execute("INSERT INTO u VALUES (1)")

        with pytest.raises((asyncpg.InterfaceError, asyncpg.PostgresError)):
            await work()
        assert await admin.fetchval("SELECT count(*) FROM u") == 0
        await admin.close()

    async def test_the_last_number_of_a_sequence_is_not_somebody_else_s(
        self, make_pool: MakePool, database_url: str, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(database_url, min_size=2, max_size=2)
        await pool.execute("CREATE TABLE things (id serial, who text)")
        first, second = await borrow_all(pool, 2)
        await first.execute("INSERT INTO things (who) VALUES ('other')")
        await pool.release(first)
        await second.execute("INSERT INTO things (who) VALUES ('me')")
        await postgres.kill(second.get_server_pid())
        with pytest.raises(StatementNotSent):
            await second.fetchval("SELECT lastval()")
        await pool.release(second)

    async def test_a_prelude_is_undone(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            begun = await lease.begin(prelude="SET search_path = pg_catalog; SELECT pg_advisory_lock(77)")
            await lease.commit(begun, timeout=5)
        async with pool.acquire() as lease:
            assert await lease.fetchval("SHOW search_path") == '"$user", public'
            assert not await lease.fetchval("SELECT pg_advisory_unlock(77)")


class TestReplacements:
    async def test_a_lease_that_was_returned_meanwhile_stays_ended(
        self, make_pool: MakePool, database_url: str, postgres: PostgresServer, events: Events
    ) -> None:
        pool = await make_pool(database_url, max_size=2, min_size=2)
        await pool.execute("CREATE TABLE things (a int)")
        doomed, other = await borrow_all(pool, 2)
        await postgres.kill(doomed.get_server_pid())
        await eventually(lambda: pool.stats().closed == {"lost": 1})
        third = await pool.acquire()
        call = asyncio.create_task(doomed.execute("INSERT INTO things VALUES (1)"))
        await eventually(lambda: pool.stats().waiting == 1)
        for lease in (doomed, other, third):
            await pool.release(lease)
        with pytest.raises(StatementNotSent):
            await call
        with pytest.raises(asyncpg.InterfaceError, match="released"):
            await doomed.fetchval("SELECT 1")
        await eventually(lambda: pool.get_idle_size() == 2)
        assert await pool.fetchval("SELECT count(*) FROM things") == 0
        assert events.named("lease_abandoned") == []

    async def test_the_call_s_timeout_bounds_the_wait(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=2, min_size=2, acquire_timeout=60)
        doomed, other = await borrow_all(pool, 2)
        await postgres.kill(doomed.get_server_pid())
        third = await pool.acquire()
        with pytest.raises(StatementNotSent):
            await doomed.fetchval("SELECT 1", timeout=0.05)
        for lease in (doomed, other, third):
            await pool.release(lease)

    async def test_one_closed_by_its_borrower_is_not_replaced_though_it_was_lost_before(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            await postgres.kill(lease.get_server_pid())
            await eventually(lambda: pool.stats().closed == {"lost": 1})
            await lease.close()
            with pytest.raises(asyncpg.InterfaceError):
                await lease.fetchval("SELECT 1")


class TestChangedArguments:
    @pytest.mark.parametrize(
        ("before", "after", "first", "then"),
        [
            ("int", "bigint", 1, 3_000_000_000),
            ("text", "jsonb USING '{}'::jsonb", "x", '{"a": 1}'),
            ("text", "uuid USING gen_random_uuid()", "x", "6f1c9b9e-5f0d-4a1b-8c7e-0b8f6d3f9a11"),
        ],
    )
    async def test_a_type_of_a_column_that_is_another_now(
        self, make_pool: MakePool, database_url: str, *, before: str, after: str, first: object, then: object
    ) -> None:
        pool = await make_pool(database_url, min_size=2, max_size=2)
        await pool.execute(f"CREATE TABLE things (a {before})")
        insert, find = "INSERT INTO things VALUES ($1)", "SELECT 1 FROM things WHERE a = $1"
        leases = await borrow_all(pool, 2)
        for lease in leases:
            await lease.fetch(insert, first)
            await lease.fetch(find, first)
        await asyncio.gather(*(pool.release(lease) for lease in leases))
        await pool.execute(f"ALTER TABLE things ALTER a TYPE {after}")
        leases = await borrow_all(pool, 2)
        for lease in leases:
            await lease.fetch(insert, then)
            assert len(await lease.fetch(find, then)) >= 1
            await pool.release(lease)
        assert pool.stats().opened == 2

    async def test_without_a_cache_a_composite_is_understood_too(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1, statement_cache_size=0)
        await pool.execute("CREATE TYPE pair AS (a int, b int); CREATE TABLE things (p pair)")
        await pool.execute("INSERT INTO things VALUES ($1)", (1, 2))
        await pool.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
        await pool.execute("INSERT INTO things VALUES ($1)", (1, 2, 3))
