"""Nothing of one borrower's session is visible to the next, and who leaves nothing behind pays nothing."""

import asyncio
import gc
import io
import re
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest
from packages.lifeguard.tests.pool.borrowers import pid_of_next
from packages.lifeguard.tests.pool.conftest import MakePool
from packages.lifeguard.tests.pool.statements import (
    CHANGES,
    CLEAN,
    DISGUISES,
    MODULES,
    TABLES,
    TYPICAL_CHANGES,
    UNSEEN_CHANGES,
    WRITES,
    lower,
)

# Everything that a session remembers and the server tells of.
SESSION = """
SELECT jsonb_build_object(
  'role', current_user, 'session', session_user,
  'settings', (SELECT jsonb_object_agg(name, setting) FROM pg_settings
               WHERE setting IS DISTINCT FROM reset_val AND name NOT LIKE 'transaction%'),
  'greeting', current_setting('my.greeting', true),
  'modules', (SELECT jsonb_agg(file_name) FROM pg_get_loaded_modules() WHERE file_name LIKE 'auto_explain%'),
  'custom', nullif(concat(current_setting('my.setting', true), current_setting('local.setting', true),
                          current_setting('constraints.setting', true),
                          current_setting('transaction.setting', true)), ''),
  'channels', (SELECT jsonb_agg(channel) FROM pg_listening_channels() AS channel),
  'locks', (SELECT jsonb_agg(objid) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
  'temporary', (SELECT jsonb_agg(relname) FROM pg_class WHERE relnamespace = pg_my_temp_schema()),
  'functions', (SELECT jsonb_agg(proname) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()),
  'statements', (SELECT jsonb_agg(name) FROM pg_prepared_statements
                 WHERE from_sql OR name NOT LIKE '\\_\\_asyncpg%'),
  'cursors', (SELECT jsonb_agg(name) FROM pg_cursors WHERE is_holdable)
)::text
"""


async def outcome(awaitable: Awaitable[object]) -> object:
    """What it gives or raises."""
    [result] = await asyncio.gather(awaitable, return_exceptions=True)
    return result


async def session_of_next(pool: Pool) -> str:
    async with pool.acquire() as lease:
        session: str = await lease.fetchval(SESSION)
        return session


async def greet(connection: asyncpg.Connection) -> None:
    """As a pool's `init`: something that RESET undoes."""
    await connection.execute("SET my.greeting = 'hello'")


async def by_prepare(lease: Lease, statement: str) -> None:
    await (await lease.prepare(statement)).fetch()


async def by_cursor(lease: Lease, statement: str) -> None:
    async with lease.transaction():
        await (await lease.cursor(statement)).fetch(1)


async def by_cursor_of_a_statement(lease: Lease, statement: str) -> None:
    prepared = await lease.prepare(statement)
    async with lease.transaction():
        async for _ in prepared.cursor():
            pass


# The borrower itself sees nothing of this: what asyncpg believes to be prepared is prepared again.
FORGETS_STATEMENTS = re.compile("EALLOCATE|DISCARD ALL")
METHODS: dict[str, Callable[[Lease, str], Awaitable[object]]] = {
    "execute": lambda lease, statement: lease.execute(statement),
    "fetch": lambda lease, statement: lease.fetch(statement),
    "fetchrow": lambda lease, statement: lease.fetchrow(statement),
    "fetchval": lambda lease, statement: lease.fetchval(statement),
    "executemany": lambda lease, statement: lease.executemany(statement, [()]),
    "fetchmany": lambda lease, statement: lease.fetchmany(statement, [()]),
    "copy_from_query": lambda lease, statement: lease.copy_from_query(statement, output=io.BytesIO()),
    "prepare": by_prepare,
    "cursor": by_cursor,
    "cursor of a statement": by_cursor_of_a_statement,
}


class TestSql:
    """Whatever a borrower says to the server, in whatever words."""

    @pytest.mark.parametrize("change", CHANGES)
    async def test_is_undone_for_the_next(self, make_pool: MakePool, change: str) -> None:
        pool = await make_pool(max_size=1, init=greet)
        fresh = await session_of_next(pool)
        for statement in (change, lower(change), f"BEGIN; {change}; COMMIT"):
            async with pool.acquire() as lease:
                await asyncio.gather(lease.execute(statement), return_exceptions=True)
                if statement is change and not FORGETS_STATEMENTS.search(
                    change
                ):  # else it is none, or misspelt
                    assert await outcome(lease.fetchval(SESSION)) != fresh
            assert await session_of_next(pool) == fresh, statement

    @pytest.mark.parametrize("disguise", DISGUISES)
    async def test_is_so_in_any_disguise(self, make_pool: MakePool, disguise: str) -> None:
        pool = await make_pool(max_size=1)
        fresh = await session_of_next(pool)
        for change in TYPICAL_CHANGES:
            statement = disguise.format(change)
            async with pool.acquire() as lease:
                await lease.execute(statement)
                assert await lease.fetchval(SESSION) != fresh, statement  # else the disguise is none
            assert await session_of_next(pool) == fresh, statement

    @pytest.mark.parametrize("method", METHODS)
    async def test_is_so_by_every_method(self, make_pool: MakePool, method: str) -> None:
        pool = await make_pool(max_size=1)
        fresh = await session_of_next(pool)
        for change in TYPICAL_CHANGES:
            for _ in range(2):  # for the second time its statement may be at hand
                async with pool.acquire() as lease:
                    await asyncio.gather(METHODS[method](lease, change), return_exceptions=True)
                assert await session_of_next(pool) == fresh, change

    async def test_in_the_condition_of_a_copy_as_well(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int)")
        fresh = await session_of_next(pool)
        where = "set_config('my.setting', 'secret', false) <> ''"
        async with pool.acquire() as lease:
            await lease.copy_records_to_table("things", records=[(1,)], where=where)
        assert await session_of_next(pool) == fresh
        async with pool.acquire() as lease:
            await lease.copy_to_table("things", source=io.BytesIO(b"1\n"), where=where)
        assert await session_of_next(pool) == fresh

    async def test_also_when_the_search_path_would_have_hidden_the_functions_that_undo_it(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(
            "CREATE SCHEMA mine; CREATE FUNCTION mine.pg_advisory_unlock_all() RETURNS void"
            " LANGUAGE sql AS 'SELECT'"
        )
        fresh = await session_of_next(pool)
        await pool.execute("SET search_path = mine, pg_catalog; SELECT pg_advisory_lock(1)")
        assert await session_of_next(pool) == fresh

    async def test_sequences_start_anew_with_every_reset(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE SEQUENCE numbers")
        await pool.execute("SELECT nextval('numbers'); SET my.setting = 'x'")
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
            await pool.fetchval("SELECT lastval()")

    async def test_what_the_server_has_no_view_of_is_undone_too(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        admin = await make_pool(database_url)
        await admin.execute(MODULES)
        for change, question in UNSEEN_CHANGES.items():
            pool = await make_pool(database_url, max_size=1)
            async with pool.acquire() as lease:
                await lease.execute(change.format(dsn=database_url))
                assert await lease.fetchval(question), change
            assert not await pool.fetchval(question), change
            await pool.close()
        await admin.execute("SELECT pg_replication_origin_drop('things')")

    async def test_so_it_is_where_backslashes_escape_in_plain_literals(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, server_settings={"standard_conforming_strings": "off"})
        fresh = await session_of_next(pool)
        async with pool.acquire() as lease:
            await lease.execute("SELECT '\\'' ; SET my.setting = 'secret' ; SELECT ''")
            assert await lease.fetchval(SESSION) != fresh
        assert await session_of_next(pool) == fresh

    async def test_a_backup_under_way_ends_with_the_session(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        for _ in range(2):
            await pool.execute("SELECT pg_backup_start('things', true)")

    async def test_statements_that_asyncpg_has_prepared_still_run_after_deallocate_all(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(max_size=1)
        for statement in ("DEALLOCATE ALL", "DISCARD ALL", "-- all\nDEALLOCATE ALL"):
            assert await pool.fetchval("SELECT $1::int", 1) == 1
            await pool.execute(statement)
            assert await pool.fetchval("SELECT $1::int", 2) == 2


class TestDriver:
    """Whatever a borrower leaves with asyncpg's connection object."""

    async def test_a_listener_hears_nothing_after_its_lease(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        heard: list[object] = []
        async with pool.acquire() as lease:
            await lease.add_listener("channel", lambda *event: heard.append(event))
        async with pool.acquire() as lease:
            assert await lease.fetchval("SELECT count(*) FROM pg_listening_channels()") == 0
            await lease.add_listener("channel", lambda *_: None)
            await lease.execute("NOTIFY channel")
        assert heard == []

    @pytest.mark.parametrize("policy", ["never", "hook"])
    async def test_nor_when_the_session_is_not_reset(self, make_pool: MakePool, policy: str) -> None:
        async def hook(_: object) -> None:
            pass

        pool = await make_pool(max_size=1, reset=hook if policy == "hook" else policy)
        heard: list[object] = []
        async with pool.acquire() as lease:
            await lease.add_listener("channel", lambda *event: heard.append(event))
        await pool.execute("NOTIFY channel")
        await pool.fetchval("SELECT 1")
        assert heard == []

    async def test_a_log_listener_sees_nothing_after_its_lease(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        seen: list[object] = []
        async with pool.acquire() as lease:
            lease.add_log_listener(lambda _, message: seen.append(message))
            await lease.execute("DO $$ BEGIN RAISE WARNING 'mine'; END $$")
            await eventually(lambda: len(seen) == 1)
        async with pool.acquire() as lease:
            await lease.execute("DO $$ BEGIN RAISE WARNING 'not mine'; END $$")
            await lease.fetchval("SELECT 1")
        assert len(seen) == 1

    @pytest.mark.parametrize("how", ["add_query_logger", "query_logger"])
    async def test_a_query_logger_sees_nothing_after_its_lease(self, make_pool: MakePool, how: str) -> None:
        pool = await make_pool(max_size=1)
        seen: list[str] = []

        def log(record: asyncpg.connection.LoggedQuery) -> None:
            seen.append(record.query)

        async with pool.acquire() as lease:
            if how == "add_query_logger":
                lease.add_query_logger(log)
            else:
                left_open = lease.query_logger(log)
                left_open.__enter__()
            await lease.fetchval("SELECT 1")
        await pool.fetchval("SELECT 2")
        await pool.execute("SELECT 3")
        assert seen == ["SELECT 1"]

    async def test_a_termination_listener_is_not_told_of_a_later_end(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=1)
        told: list[object] = []
        async with pool.acquire() as lease:
            lease.add_termination_listener(told.append)
        await postgres.kill(await pid_of_next(pool))
        await eventually(lambda: pool.stats().closed == {"lost": 1})
        assert told == []

    async def test_undoing_these_costs_no_round_trip(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        asked = proxy.asked
        async with pool.acquire() as lease:
            lease.add_log_listener(print)
            lease.add_termination_listener(print)
            lease.add_query_logger(print)
        await eventually(lambda: pool.get_idle_size() == 1)
        assert proxy.asked == asked

    @pytest.mark.parametrize("how", ["set_type_codec", "set_builtin_type_codec", "reset_type_codec"])
    async def test_a_codec_ends_with_the_session(
        self, make_pool: MakePool, database_url: str, how: str
    ) -> None:
        async def init(connection: asyncpg.Connection) -> None:
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=str, decoder=lambda _: "init's"
            )

        pool = await make_pool(database_url, max_size=1, init=init)
        await pool.execute("CREATE EXTENSION IF NOT EXISTS hstore")
        async with pool.acquire() as lease:
            if how == "set_type_codec":
                await lease.set_type_codec(
                    "jsonb", schema="pg_catalog", encoder=str, decoder=lambda _: "borrower's"
                )
            elif how == "reset_type_codec":
                await lease.reset_type_codec("jsonb", schema="pg_catalog")
            else:
                await lease.set_builtin_type_codec("hstore", codec_name="pg_contrib.hstore")
        assert await pool.fetchval("SELECT '{}'::jsonb") == "init's"
        assert await pool.fetchval("SELECT 'a=>1'::hstore") == '"a"=>"1"'
        assert pool.stats().closed == {"session_spoilt": 1}

    async def test_a_named_statement_is_nobody_else_s(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        fresh = await session_of_next(pool)
        async with pool.acquire() as lease:
            statement = await lease.prepare("SELECT 1", name="things")
            assert await statement.fetchval() == 1
        assert await session_of_next(pool) == fresh
        async with pool.acquire() as lease:
            another = await lease.prepare("SELECT 2", name="things")
            del statement
            gc.collect()
            await lease.prepare("SELECT 3")
            assert await another.fetchval() == 2

    async def test_a_reset_by_the_borrower_does_not_undo_init_for_the_next(self, make_pool: MakePool) -> None:
        async def init(connection: asyncpg.Connection) -> None:
            await connection.execute("SET search_path = pg_catalog")

        pool = await make_pool(max_size=1, init=init)
        async with pool.acquire() as lease:
            await lease.reset()
            assert "public" in await lease.fetchval("SHOW search_path")
        assert await pool.fetchval("SHOW search_path") == "pg_catalog"

    async def test_what_the_pool_cannot_see_can_be_marked(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(
            "CREATE FUNCTION login() RETURNS void LANGUAGE sql"
            " AS $$ SELECT set_config('my.setting', 'secret', false) $$"
        )
        async with pool.acquire() as lease:
            await lease.fetchval("SELECT login()")
            lease.mark_dirty()
        assert await pool.fetchval("SELECT current_setting('my.setting', true)") in {None, ""}


class TestClean:
    """Statements that leave nothing behind cost no reset and no round trip."""

    @pytest.mark.parametrize("statement", CLEAN)
    async def test_no_round_trip(self, make_pool: MakePool, proxy: Proxy, statement: str) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        for _ in range(2):
            async with pool.acquire() as lease:
                await lease.execute(statement)
                asked = proxy.asked
            assert pool.get_idle_size() == 1  # at once
            assert proxy.asked == asked
        assert pool.stats().resets == 0

    async def test_writes_are_none_either(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute(TABLES)
        await eventually(lambda: pool.get_idle_size() == 1)
        resets = pool.stats().resets
        for statement in WRITES:
            await pool.execute(statement)
            assert pool.get_idle_size() == 1, statement
        assert pool.stats().resets == resets

    async def test_by_every_method(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        for name, method in METHODS.items():
            async with pool.acquire() as lease:
                await method(lease, "SELECT 1")
            await eventually(lambda: pool.get_idle_size() == 1)
            assert pool.stats().resets == 0, name

    async def test_a_change_costs_one_reset(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        await pool.execute("SET my.setting = 'x'; SET search_path = pg_catalog; LISTEN channel")
        await eventually(lambda: at_rest(pool.stats()))
        assert pool.stats().resets == 1
        assert pool.stats().closed == {}


class WithSchema(asyncpg.Connection):
    """A connection class with a method of its own."""

    async def use_schema(self, name: str) -> None:
        await self.execute(f"SET search_path TO {name}")


async def test_what_a_method_of_a_connection_class_of_its_own_has_set_ends_with_the_lease(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(max_size=1, connection_class=WithSchema)
    async with pool.acquire() as lease:
        before = await lease.fetchval("SHOW search_path")
        own: Any = lease
        await own.use_schema("elsewhere")
        assert await lease.fetchval("SHOW search_path") == "elsewhere"
        assert not hasattr(lease, "nothing_of_this_name")
    async with pool.acquire() as lease:
        assert await lease.fetchval("SHOW search_path") == before
