"""Code written for `asyncpg.Pool` runs on `Pool` unchanged: the ideas of asyncpg's and psycopg's suites."""

import asyncio
import gc
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest, nothing_left
from packages.lifeguard.tests.pool.borrowers import pid_of_next
from packages.lifeguard.tests.pool.conftest import Events, MakePool


class TestBorrowing:
    @pytest.mark.parametrize("tasks", [1, 3, 5, 10, 20, 100])
    @pytest.mark.parametrize("sizes", [(5, 10), (5, 5), (1, 1)])
    async def test_any_number_of_tasks_is_served(
        self, make_pool: MakePool, tasks: int, sizes: tuple[int, int]
    ) -> None:
        pool = await make_pool(min_size=sizes[0], max_size=sizes[1])

        async def acquire_and_release() -> int:
            connection = await pool.acquire(timeout=5)
            value: int = await connection.fetchval("SELECT 1")
            await pool.release(connection)
            return value

        async def with_block() -> int:
            async with pool.acquire() as connection:
                value: int = await connection.fetchval("SELECT 1")
                return value

        workers = [acquire_and_release() if n % 2 else with_block() for n in range(tasks)]
        assert await asyncio.gather(*workers) == [1] * tasks
        assert pool.get_size() <= sizes[1]

    async def test_a_lease_is_a_connection(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire() as connection:
            borrowed: Any = connection
            kinds = (asyncpg.Connection, asyncpg.pool.PoolConnectionProxy, Lease)
            assert all(isinstance(borrowed, kind) for kind in kinds)
            assert "Connection" in repr(connection)
            assert connection.get_server_version().major == 18
            assert connection.get_settings().application_name == pool.name
        assert "[released]" in repr(connection)

    async def test_a_bare_connection_is_not_a_member(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire() as connection:
            with pytest.raises(asyncpg.InterfaceError, match="is not a member"):
                await pool.release(connection._con)

    async def test_an_error_of_the_borrower_s_own_costs_no_connection(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        pid = await pid_of_next(pool)
        with pytest.raises(ZeroDivisionError):
            async with pool.acquire():
                raise ZeroDivisionError
        assert await pid_of_next(pool) == pid

    async def test_a_cancel_at_once_after_asking_loses_nothing(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        task = asyncio.create_task(pid_of_next(pool))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert pool.get_idle_size() == 1

    async def test_cancelling_holders_and_waiters_from_the_last_to_the_first_loses_nothing(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=3, max_size=3)

        async def hold() -> None:
            async with pool.acquire() as connection:
                await connection.fetchval("SELECT 1")
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(hold()) for _ in range(9)]
        await eventually(lambda: pool.stats().used == 3 and pool.stats().waiting == 6)
        for task in reversed(tasks):
            task.cancel()
        await asyncio.wait(tasks)
        await eventually(lambda: pool.get_idle_size() == 3)  # a query that was cancelled ends after that
        assert pool.stats().waiting == 0

    async def test_a_spike_of_short_requests_does_not_fill_the_pool(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=5, max_size=20, queue_target=0)
        proxy.hold_new = True  # opening takes longer than the whole spike
        await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(50)))
        proxy.resume()
        await eventually(lambda: at_rest(pool.stats()))
        assert pool.get_size() < 10


class TestHooks:
    async def test_how_often_each_is_called(self, make_pool: MakePool) -> None:
        calls: list[str] = []

        def hook(name: str) -> Callable[[object], Awaitable[None]]:
            async def call(_: object) -> None:
                calls.append(name)

            return call

        pool = await make_pool(
            min_size=2, max_size=5, init=hook("init"), setup=hook("setup"), reset=hook("reset")
        )
        await asyncio.gather(*(pid_of_next(pool) for _ in range(10)))
        await eventually(lambda: at_rest(pool.stats()))
        assert calls.count("init") == pool.stats().opened
        assert calls.count("setup") == 10
        assert calls.count("reset") == 10

    async def test_setup_gets_the_lease_and_the_others_the_bare_connection(self, make_pool: MakePool) -> None:
        got: dict[str, object] = {}

        async def init(connection: asyncpg.Connection) -> None:
            got["init"] = connection

        async def setup(connection: Lease) -> None:
            got["setup"] = connection

        async def reset(connection: asyncpg.Connection) -> None:
            got["reset"] = connection

        pool = await make_pool(max_size=1, init=init, setup=setup, reset=reset)
        async with pool.acquire() as connection:
            assert got["setup"] is connection
            assert got["init"] is connection._con
        await eventually(lambda: pool.get_idle_size() == 1)
        assert got["reset"] is got["init"]

    async def test_reset_takes_the_place_of_the_pool_s_own(self, make_pool: MakePool) -> None:
        async def reset(connection: asyncpg.Connection) -> None:
            await connection.execute("SET timezone = 'Asia/Tokyo'")

        pool = await make_pool(max_size=1, reset=reset)
        await pool.execute("SET search_path = pg_catalog")
        async with pool.acquire() as connection:
            assert await connection.fetchval("SHOW timezone") == "Asia/Tokyo"
            assert await connection.fetchval("SHOW search_path") == "pg_catalog"

    async def test_before_reset_the_transaction_is_rolled_back_and_listeners_are_gone(
        self, make_pool: MakePool
    ) -> None:
        heard: list[object] = []

        async def reset(connection: asyncpg.Connection) -> None:
            assert not connection.is_in_transaction()

        pool = await make_pool(max_size=1, reset=reset)
        async with pool.acquire() as connection:
            await connection.add_listener("channel", lambda *event: heard.append(event))
            await connection.execute("BEGIN")
        await pool.execute("SELECT pg_notify('channel', 'for the last one')")
        await pool.fetchval("SELECT 1")
        assert heard == []

    async def test_a_reset_that_fails_costs_the_connection(self, make_pool: MakePool, events: Events) -> None:
        async def reset(connection: asyncpg.Connection) -> None:
            await connection.execute("WAT")

        pool = await make_pool(max_size=1, reset=reset)
        assert await pid_of_next(pool) != await pid_of_next(pool)
        await eventually(lambda: len(events.named("return_failed")) == 2)

    async def test_a_reset_that_hangs_does_so_within_a_bound(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lifeguard.pool.cleanup.STEP_BOUND", 0.1)

        async def reset(_: asyncpg.Connection) -> None:
            await asyncio.Event().wait()

        pool = await make_pool(max_size=1, reset=reset, acquire_timeout=2)
        assert await pid_of_next(pool) != await pid_of_next(pool)

    @pytest.mark.parametrize("hook", ["init", "reset"])
    async def test_a_hook_that_leaves_a_transaction_open_has_failed(
        self, make_pool: MakePool, hook: str
    ) -> None:
        calls = 0

        async def begin(connection: asyncpg.Connection) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                await connection.execute("BEGIN")

        pool = await make_pool(max_size=1, **{hook: begin})
        for _ in range(2):
            async with pool.acquire() as connection:
                await connection.execute("SELECT 1")
                assert not connection.is_in_transaction()
        assert calls

    async def test_with_never_nothing_is_reset(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, reset="never")
        await pool.execute("SET search_path = pg_catalog")
        assert await pool.fetchval("SHOW search_path") == "pg_catalog"

    async def test_with_always_even_the_unchanged_is(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, reset="always")
        await pool.fetchval("SELECT 1")
        await eventually(lambda: pool.stats().resets == 1)


class TestPoolQueries:
    async def test_each_kind_under_load(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=5, max_size=10)
        many = range(100)
        for n, rows in enumerate(await asyncio.gather(*(pool.fetch("SELECT $1::int", n) for n in many))):
            assert [tuple(row) for row in rows] == [(n,)]
        for n, row in enumerate(await asyncio.gather(*(pool.fetchrow("SELECT $1::int", n) for n in many))):
            assert row is not None
            assert tuple(row) == (n,)
        assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in many)) == [*many]
        done = await asyncio.gather(*(pool.execute("SELECT generate_series(0, $1)", n) for n in many))
        assert done == [f"SELECT {n + 1}" for n in many]

    async def test_the_others(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url)
        await pool.execute("CREATE TABLE things (a text, b int)")
        rows = [("a", 1), ("b", 2)]
        await pool.executemany("INSERT INTO things VALUES ($1, $2)", rows)
        returned = await pool.fetchmany("INSERT INTO things VALUES ($1, $2) RETURNING b", rows)
        assert [row["b"] for row in returned] == [1, 2]
        assert await pool.copy_records_to_table("things", records=rows) == "COPY 2"
        text = io.BytesIO()
        assert await pool.copy_from_table("things", output=text) == "COPY 6"
        text.seek(0)
        assert await pool.copy_to_table("things", source=text) == "COPY 6"
        text = io.BytesIO()
        await pool.copy_from_query("SELECT count(*) FROM things WHERE b = $1", 2, output=text)
        assert text.getvalue() == b"6\n"
        assert (
            pool.stats().resets == 1
        )  # after CREATE TABLE, which is none of the statements known to be clean

    async def test_arguments_of_connection_methods_pass_through(self, make_pool: MakePool) -> None:
        class Row(asyncpg.Record):
            pass

        pool = await make_pool()
        for _ in range(2):  # prepared for the first time, and at hand
            assert await pool.fetchval("SELECT 1, 2", column=1) == 2
            assert await pool.fetchval("SELECT 1, 2 WHERE false", column=1) is None
            assert await pool.fetchrow("SELECT 1 WHERE false") is None
            assert isinstance(await pool.fetchrow("SELECT 1", record_class=Row), Row)
            assert isinstance((await pool.fetch("SELECT 1", record_class=Row))[0], Row)
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT pg_sleep(60)", timeout=0.02)

    async def test_a_wrong_argument_is_the_caller_s_error_each_time(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        assert await pool.fetchval("SELECT $1::int", 1) == 1
        for _ in range(2):
            with pytest.raises(asyncpg.DataError):
                await pool.fetchval("SELECT $1::int", "one")
            with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
                await pool.fetchval("SELECT $1::int")
        assert pool.stats().opened == 1

    async def test_prepared_statements_can_be_turned_off(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, statement_cache_size=0)
        for _ in range(2):
            assert await pool.fetchval("SELECT $1::int", 1) == 1
        assert (
            await pool.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%int'")
            == 0
        )

    async def test_the_pool_s_command_timeout_holds(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, command_timeout=0.05)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT pg_sleep(60)")


class TestConnectionClass:
    async def test_it_is_used_and_its_own_methods_are_there(self, make_pool: MakePool) -> None:
        class Own(asyncpg.Connection):
            async def answer(self) -> int:
                return 42

            async def fetchval(self, *args: object, **kwargs: object) -> object:
                value = await super().fetchval(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came
                return value + 1

        pool = await make_pool(connection_class=Own, statement_cache_size=3)
        for _ in range(3):
            async with pool.acquire() as connection:
                assert isinstance(connection._con, Own)
                assert await connection.fetchval("SELECT 1") == 2
                assert await connection.answer() == 42  # type: ignore[attr-defined]  # a method of Own

    async def test_set_later_its_own_methods_are_there_too(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        class Own(asyncpg.Connection):
            async def answer(self) -> int:
                return 42

        pool = await make_pool()
        pool.set_connect_args(postgres.dsn(), connection_class=Own)
        await pool.expire_connections()
        async with pool.acquire() as connection:
            assert await connection.answer() == 42  # type: ignore[attr-defined]  # a method of Own


class TestWhatIsPrivateToAsyncpg:
    async def test_it_is_there_and_counts_as_a_change_of_the_session(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=1, max_size=1)
        async with pool.acquire() as connection:
            lent: Any = connection  # typed, it has nothing private
            assert lent._params is lent._con._params
        await eventually(lambda: pool.stats().idle == 1)
        assert pool.stats().resets == 1

    async def test_all_that_a_connection_has_a_lease_has(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire() as connection:
            has = {name for name in dir(connection._con) if not name.startswith("__")}
            assert has <= set(dir(connection))
            assert not hasattr(connection, "unheard_of")

    async def test_once_returned_nothing_is_there(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire() as connection:
            pass
        assert not hasattr(connection, "_params")


class TestSizes:
    async def test_they_follow_what_is_borrowed(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=2, max_size=3, leak_threshold=0)
        assert (pool.get_min_size(), pool.get_max_size(), pool.get_size()) == (2, 3, 2)
        leases: list[Lease] = []
        for idle, size in ((1, 2), (0, 2), (0, 3)):
            leases.append(await pool.acquire())
            assert (pool.get_idle_size(), pool.get_size()) == (idle, size)
        for lease in leases:
            await pool.release(lease)
        assert (pool.get_idle_size(), pool.get_size()) == (3, 3)


class TestLife:
    async def test_a_pool_can_be_awaited(self, postgres: PostgresServer) -> None:
        pool = await Pool(postgres.dsn(), min_size=1)
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()
        assert nothing_left(pool.stats())

    async def test_it_can_be_awaited_twice_and_used_while_it_opens(self, postgres: PostgresServer) -> None:
        pool = Pool(postgres.dsn(), min_size=1)
        first, second, value = await asyncio.gather(pool._opened(), pool._opened(), pool.fetchval("SELECT 1"))
        assert first is second is pool
        assert value == 1
        await pool.close()

    async def test_before_that_it_refuses_with_an_interface_error(self, postgres: PostgresServer) -> None:
        with pytest.raises(asyncpg.InterfaceError, match="is not open"):
            await Pool(postgres.dsn()).fetchval("SELECT 1")

    @pytest.mark.parametrize("how", ["close", "terminate"])
    async def test_is_closing_says_so(self, make_pool: MakePool, how: str) -> None:
        pool = await make_pool()
        assert not pool.is_closing()
        if how == "close":
            await pool.close()
        else:
            pool.terminate()
        assert pool.is_closing()

    async def test_a_close_that_takes_too_long_can_be_given_up(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire() as connection:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.close(), 0.05)
            with pytest.raises(asyncpg.InterfaceError):
                await connection.fetchval("SELECT 1")


class Halt(Exception):
    """What a consumer of rows raises."""


async def rows_in_a_transaction(connection: Lease) -> AsyncIterator[asyncpg.Record]:
    async with connection.transaction():
        for record in await connection.fetch("SELECT 1"):
            yield record


class TestAsyncGenerators:
    """Left in the middle, they end when the garbage collector has them: after the lease's return."""

    async def test_with_a_transaction_inside(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        with pytest.raises(Halt):
            await self.consume(pool)
        gc.collect()
        async with pool.acquire() as connection:
            await connection.execute("SELECT 1")
            assert not connection.is_in_transaction()

    async def consume(self, pool: Pool) -> None:
        async with pool.acquire() as connection:
            async for _ in rows_in_a_transaction(connection):
                raise Halt

    async def test_held_until_after_the_return(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        rows: AsyncIterator[asyncpg.Record] | None = None
        async with pool.acquire() as connection:
            rows = rows_in_a_transaction(connection)
            assert tuple(await anext(rows)) == (1,)
        assert await pool.fetchval("SELECT 1") == 1
        del rows
        gc.collect()
        assert await pool.fetchval("SELECT 1") == 1
        assert pool.stats().used == 0

    async def test_inside_a_transaction(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)

        async def rows(connection: Lease) -> AsyncIterator[asyncpg.Record]:
            for record in await connection.fetch("SELECT 1"):
                yield record

        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            async for _ in rows(connection):
                break
            await transaction.rollback()
        assert pool.get_idle_size() == 1


class TestTargetServer:
    async def test_a_server_that_changes_its_role_is_left(
        self, make_pool: MakePool, database_url: str, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(database_url, max_size=1, target_session_attrs="read-write")
        name = database_url.rpartition("/")[2].partition("?")[0]
        async with postgres.connect() as admin:
            await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            await postgres.kill_backends(application_name=pool.name)
            await eventually(lambda: "ReadOnlyServer" in (pool.stats().last_error or ""))
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await eventually(lambda: pool.get_idle_size() == 1)
