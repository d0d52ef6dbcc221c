"""DDL beside the traffic: what a connection had cached of the schema is renewed, and nobody reconnects."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import borrow_all
from packages.lifeguard.tests.pool.conftest import Events, MakePool

THINGS = "CREATE TABLE things (a int); INSERT INTO things VALUES (1)"
PAIRS = "CREATE TYPE pair AS (a int, b int); CREATE TABLE things (p pair); INSERT INTO things VALUES ((1, 2))"
MOODS = "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE people (mood mood)"
REPLACE_MOOD = """
ALTER TABLE people ALTER mood TYPE text; DROP TYPE mood;
CREATE TYPE mood AS ENUM ('sad', 'glad', 'bored'); ALTER TABLE people ALTER mood TYPE mood USING mood::mood
"""


async def on_all(pool: Pool, query: str, *args: object) -> None:
    """Have every connection of a full pool run the query."""
    leases = await borrow_all(pool, pool.get_max_size())
    for lease in leases:
        await lease.fetch(query, *args)
    for lease in leases:
        await pool.release(lease)
    await renewed(pool)


async def renewed(pool: Pool) -> None:
    """Wait until every connection is idle again."""
    await eventually(lambda: pool.get_idle_size() == pool.get_max_size())


async def outcome_of(request: Awaitable[object]) -> type[Exception] | None:
    try:
        await request
    except Exception as error:  # noqa: BLE001 - whatever it is
        return type(error)
    return None


async def select(lease: Lease) -> None:
    await lease.fetch("SELECT * FROM things")


async def select_first(lease: Lease) -> None:
    async with lease.transaction():
        await lease.fetch("SELECT * FROM things")


async def select_first_after_prelude(lease: Lease) -> None:
    begun = await lease.begin(prelude="SET LOCAL statement_timeout = '7s'")
    await lease.fetch("SELECT * FROM things")
    assert await lease.fetchval("SHOW statement_timeout") == "7s"
    await lease.commit(begun, timeout=5)


async def select_first_beside_a_prepared_one(lease: Lease) -> None:
    await lease.prepare("SELECT 1")
    await select_first(lease)


async def many(lease: Lease) -> None:
    await lease.executemany("SELECT * FROM things WHERE a = $1", [(1,), (2,)])


class TestChangedColumns:
    """0A000, "cached plan must not change result type"."""

    @pytest.mark.parametrize(
        "request_",
        [select, select_first, select_first_after_prelude, select_first_beside_a_prepared_one, many],
    )
    async def test_costs_no_request_and_no_connection(
        self,
        make_pool: MakePool,
        database_url: str,
        events: Events,
        request_: Callable[[Lease], Awaitable[None]],
    ) -> None:
        pool = await make_pool(database_url, min_size=5, max_size=5)
        await pool.execute(THINGS)
        for change in ("ADD b int DEFAULT 2", "ALTER b TYPE bigint", "DROP b"):
            for lease in await borrow_all(pool, 5):
                await request_(lease)
                await pool.release(lease)
            await renewed(pool)
            await pool.execute(f"ALTER TABLE things {change}")
            leases = await borrow_all(pool, 5)
            assert await asyncio.gather(*(outcome_of(request_(lease)) for lease in leases)) == [None] * 5
            for lease in leases:
                await pool.release(lease)
            await renewed(pool)
        assert pool.stats().opened == 5
        assert len(events.named("schema_changed")) <= 3  # one for each change, whoever finds out

    async def test_a_later_statement_of_a_transaction_fails_once_for_all(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, min_size=3, max_size=3)
        await pool.execute(THINGS)
        await on_all(pool, "SELECT * FROM things")
        await pool.execute("ALTER TABLE things ADD b int")

        async def request(lease: Lease) -> None:
            async with lease.transaction():
                await lease.execute("SELECT 1")
                await lease.fetch("SELECT * FROM things")

        first = await pool.acquire()
        assert await outcome_of(request(first)) is asyncpg.InvalidCachedStatementError
        await pool.release(first)
        await renewed(pool)
        for lease in await borrow_all(pool, 3):
            assert await outcome_of(request(lease)) is None
            await pool.release(lease)
        assert pool.stats().opened == 3

    async def test_arguments_from_an_iterator_are_not_taken_twice(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(THINGS)
        query = "INSERT INTO things (a) VALUES ($1) RETURNING things.*"
        await pool.fetchmany(query, [(2,)])
        await pool.execute("ALTER TABLE things ADD b int")
        assert await outcome_of(pool.fetchmany(query, ((n,) for n in range(3, 100_000)))) is not None
        assert await pool.fetchval("SELECT count(*) FROM things WHERE a > 2") == 0
        await pool.fetchmany(query, ((n,) for n in (3, 4)))
        assert await pool.fetchval("SELECT count(*) FROM things WHERE a > 2") == 2

    async def test_a_procedure_is_not_called_twice(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE calls (n int)")
        await pool.execute("""
            CREATE PROCEDURE work(n int) LANGUAGE plpgsql AS $$ BEGIN
              INSERT INTO calls VALUES (n); COMMIT;
              RAISE EXCEPTION 'cache lookup failed for type 1' USING ERRCODE = 'XX000';
            END $$
        """)
        assert await outcome_of(pool.execute("CALL work($1)", 1)) is asyncpg.InternalServerError
        assert await pool.fetchval("SELECT count(*) FROM calls") == 1


class TestReplacedTypes:
    """`cache lookup failed for type 16423`: the type that a connection knows is gone."""

    @pytest.mark.parametrize(
        "statement",
        [
            ("SELECT mood FROM people", ()),
            ("SELECT * FROM people WHERE mood = $1", ("glad",)),
            ("SELECT $1::mood", ("glad",)),
            ("SELECT $1::mood[]", (["glad"],)),
            ("INSERT INTO people VALUES ($1)", ("glad",)),
        ],
    )
    @pytest.mark.parametrize("in_transaction", [False, True])
    async def test_costs_no_request(
        self,
        make_pool: MakePool,
        database_url: str,
        events: Events,
        statement: tuple[str, tuple[object, ...]],
        in_transaction: bool,
    ) -> None:
        query, args = statement
        pool = await make_pool(database_url, min_size=3, max_size=3)
        await pool.execute(MOODS)
        await on_all(pool, query, *args)

        async def request(lease: Lease) -> None:
            if in_transaction:
                async with lease.transaction():
                    await lease.fetch(query, *args)
            else:
                await lease.fetch(query, *args)

        for _ in range(2):
            await pool.execute(REPLACE_MOOD)
            leases = await borrow_all(pool, 3)
            assert await asyncio.gather(*(outcome_of(request(lease)) for lease in leases)) == [None] * 3
            for lease in leases:
                await pool.release(lease)
            await renewed(pool)
        assert pool.stats().opened == 3
        assert len(events.named("schema_changed")) <= 2

    async def test_codecs_that_init_has_set_are_those_of_the_new_type(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as admin:
            await admin.execute(MOODS)
            await admin.execute("INSERT INTO people VALUES ('glad')")

        async def init(connection: asyncpg.Connection) -> None:
            await connection.set_type_codec(
                "mood", schema="public", encoder=str.lower, decoder=str.upper, format="text"
            )

        pool = await make_pool(database_url, min_size=2, max_size=2, init=init)
        await on_all(pool, "SELECT mood FROM people")
        await pool.execute(REPLACE_MOOD)
        for lease in await borrow_all(pool, 2):
            assert await lease.fetchval("SELECT mood FROM people") == "GLAD"
            await pool.release(lease)

    async def test_the_same_name_in_each_tenant_s_schema(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, min_size=2, max_size=2)
        for tenant in ("a", "b", "c"):
            await pool.execute(f"""
                CREATE SCHEMA {tenant}; CREATE TYPE {tenant}.mood AS ENUM ('{tenant}');
                CREATE TABLE {tenant}.people (mood {tenant}.mood);
                INSERT INTO {tenant}.people VALUES ('{tenant}')
            """)
        for tenant in "abcabcbacb":
            async with pool.acquire() as lease:
                await lease.execute(f"SET search_path = {tenant}")
                assert await lease.fetchval("SELECT mood FROM people") == tenant
        assert pool.stats().opened == 2


class TestChangedComposites:
    async def test_a_read_that_meets_one_fails_once_for_all(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, min_size=3, max_size=3)
        await pool.execute(PAIRS)
        await on_all(pool, "SELECT p FROM things")
        await pool.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
        first = await pool.acquire()
        # The server has done its work, and it may not have been only reading: nobody repeats it.
        assert await outcome_of(first.fetch("SELECT p FROM things")) is asyncpg.OutdatedSchemaCacheError
        await pool.release(first)
        await renewed(pool)
        for lease in await borrow_all(pool, 3):
            assert [row["p"]["a"] for row in await lease.fetch("SELECT p FROM things")] == [1]
            await pool.release(lease)
        assert pool.stats().opened == 3

    async def test_an_argument_of_the_new_shape_is_understood(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, min_size=2, max_size=2)
        await pool.execute(PAIRS)
        await on_all(pool, "INSERT INTO things VALUES ($1)", (1, 2))
        await pool.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
        for lease in await borrow_all(pool, 2):
            async with lease.transaction():
                await lease.execute("SELECT 1")
                await lease.execute("INSERT INTO things VALUES ($1)", (1, 2, 3))
            await pool.release(lease)
        await pool.execute("ALTER TYPE pair DROP ATTRIBUTE c")
        for lease in await borrow_all(pool, 2):
            await lease.execute("INSERT INTO things VALUES ($1)", (1, 2))
            await pool.release(lease)

    async def test_one_of_the_wrong_shape_is_the_caller_s_error_as_before(
        self, make_pool: MakePool, database_url: str, events: Events
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(PAIRS)
        for _ in range(3):
            with pytest.raises(asyncpg.DataError):
                await pool.execute("INSERT INTO things VALUES ($1)", (1, 2, 3))
        assert events.named("schema_changed") == []

    async def test_reloading_on_one_connection_counts_for_all(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, min_size=3, max_size=3)
        await pool.execute(PAIRS)
        await on_all(pool, "SELECT p FROM things")
        async with pool.acquire() as lease:
            await lease.execute("ALTER TYPE pair ADD ATTRIBUTE c int")
            await lease.reload_schema_state()
        await renewed(pool)
        await on_all(pool, "SELECT p FROM things")
        assert pool.stats().opened == 3


async def test_a_prepared_statement_that_the_server_has_forgotten_is_prepared_again(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(max_size=1, reset="never")
    async with pool.acquire() as lease:
        await lease.fetch("SELECT 1")
        await lease.execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
        assert await lease.fetchval("SELECT 1") == 1
