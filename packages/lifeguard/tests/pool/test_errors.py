"""What the pool learns from the errors of its borrowers' statements, and from its server's end."""

import asyncio

import asyncpg
import pytest
from lifeguard.development.embedded import StopMode
from lifeguard.pool import PoolClosing, PoolError, PoolUnavailable
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced, at_rest
from packages.lifeguard.tests.pool.borrowers import borrow_all, link_of, on_ports, pid_of_next
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch

FATAL = b"E\x00\x00\x00\x23SFATAL\x00VFATAL\x00C57P01\x00Mthe end\x00\x00"
READY = b"Z\x00\x00\x00\x05I"
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


class TestKilledBackends:
    async def test_all_idle_ones_cost_no_request(
        self, make_pool: MakePool, postgres: PostgresServer, events: Events
    ) -> None:
        pool = await make_pool(min_size=5, max_size=5)
        assert await postgres.kill_backends(application_name=pool.name) == 5
        assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(20))) == [*range(20)]
        await eventually(lambda: pool.get_idle_size() == 5)
        assert pool.stats().closed == {"lost": 5}
        assert len(events.named("connections_suspect")) == 1  # one incident, one event

    async def test_all_idle_ones_cost_none_before_the_loop_has_noticed_either(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(min_size=5, max_size=5, validate_after=0)
        sessions = await postgres.backends(application_name=pool.name)
        assert len(sessions) == 5
        async with postgres.connect() as admin:
            killing = asyncio.create_task(
                admin.fetch(
                    "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid",
                    [session["pid"] for session in sessions],
                )
            )
            while not killing.done():
                assert await asyncio.gather(pid_of_next(pool), pid_of_next(pool))

    async def test_one_in_use_costs_the_request_that_was_on_it(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(min_size=2, max_size=2)
        doomed, other = await pool.acquire(), await pool.acquire()
        query = asyncio.create_task(doomed.execute("SELECT pg_sleep(60)"))
        waiters = [asyncio.create_task(pool.fetchval("SELECT 1")) for _ in range(10)]
        await eventually(lambda: pool.stats().waiting == 10)
        await postgres.kill(doomed.get_server_pid())
        with pytest.raises(LOST):
            await query
        assert await other.fetchval("SELECT 1") == 1
        await pool.release(other)
        await pool.release(doomed)
        assert await asyncio.gather(*waiters) == [1] * 10

    async def test_one_killed_makes_the_others_suspect(
        self, make_pool: MakePool, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2, max_size=2)
        async with pool.acquire() as other:
            link = await link_of(other, proxy)
            pid = other.get_server_pid()
            doomed = await pid_of_next(pool)
            proxy.hold_new = True  # so that no new one replaces it
            await postgres.kill(doomed)
            await eventually(lambda: pool.stats().closed == {"lost": 1})
        asked = link.asked
        assert await pid_of_next(pool) == pid
        assert link.asked == asked + 1
        proxy.resume()

    async def test_the_server_s_fatal_words_retire_the_connection(
        self, make_pool: MakePool, proxy: Proxy, events: Events
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2, max_size=2)
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            link = await link_of(lease, proxy)
            asked = link.asked
            link.silence()
            query = asyncio.create_task(lease.execute("SELECT 1"))
            await eventually(lambda: link.asked > asked)
            await link.say(FATAL + READY)  # without the end that follows it
            with pytest.raises(asyncpg.AdminShutdownError):
                await query
            link.resume()
        assert pid not in {await pid_of_next(pool) for _ in range(3)}
        assert pool.stats().closed == {"server_gone": 1}
        assert [event.details["why"] for event in events.named("connections_suspect")] == ["server_gone"]

    @pytest.mark.parametrize("sqlstate", ["57P01", "57P02", "57P03", "08000", "08006"])
    async def test_the_same_words_on_a_session_that_goes_on_only_have_it_tried(
        self, make_pool: MakePool, proxy: Proxy, events: Events, sqlstate: str
    ) -> None:
        """Severity ERROR: it was RAISEd, or is about the other server of a foreign table or of dblink."""
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            link = await link_of(lease, proxy)
            pid = lease.get_server_pid()
            with pytest.raises(asyncpg.PostgresError):
                await lease.execute(f"DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END $$")
            asked = link.asked
        await eventually(lambda: pool.get_idle_size() == 1)
        assert link.asked > asked
        assert await pid_of_next(pool) == pid
        assert pool.stats().closed == {}
        assert events.named("connections_suspect") == []

    @pytest.mark.parametrize("how", ["close", "terminate", "overstay"])
    async def test_one_that_ended_for_its_borrower_s_sake_says_nothing_of_the_others(
        self, make_pool: MakePool, proxy: Proxy, events: Events, how: str
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2, max_size=2)
        async with pool.acquire() as other:
            link = await link_of(other, proxy)
            async with pool.acquire() as lease:
                if how == "overstay":
                    with pytest.raises(asyncpg.ConnectionDoesNotExistError, match="transaction timeout"):
                        await lease.execute("BEGIN; SET LOCAL transaction_timeout = 20; SELECT pg_sleep(60)")
                else:
                    closing = getattr(lease, how)()
                    if closing is not None:
                        await closing
                await eventually(lambda: sum(pool.stats().closed.values()))
        asked = link.asked
        for one in await borrow_all(pool, 2):
            await pool.release(one)
        assert link.asked == asked
        assert pool.stats().closed == {"lost" if how == "overstay" else "closed_by_borrower": 1}
        assert events.named("connections_suspect") == []

    async def test_a_suspect_one_is_checked_before_it_goes_to_a_waiter(
        self, make_pool: MakePool, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2, max_size=2)
        doomed, other = await borrow_all(pool, 2)
        link = await link_of(other, proxy)
        proxy.hold_new = True  # so that the waiter has to wait for the other
        waiter = asyncio.create_task(pid_of_next(pool))
        await postgres.kill(doomed.get_server_pid())
        await eventually(lambda: pool.stats().closed == {"lost": 1})
        asked, pid = link.asked, other.get_server_pid()
        await pool.release(other)
        assert await waiter == pid
        assert link.asked == asked + 1
        await pool.release(doomed)
        proxy.resume()

    async def test_any_other_error_keeps_it(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        for statement in ("SELECT 1 / 0", "SELECT nonsense", "SELECT"):
            await asyncio.gather(pool.fetch(statement), return_exceptions=True)
        assert pool.stats().opened == 1
        assert pool.stats().closed == {}

    async def test_an_idle_transaction_ended_by_the_server_heals(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, server_settings={"idle_in_transaction_session_timeout": "50"})
        async with pool.acquire() as lease:
            await lease.execute("BEGIN")
            await eventually(lambda: pool.stats().closed)
            with pytest.raises(LOST):
                await lease.execute("SELECT 1")
        assert await pool.fetchval("SELECT 1") == 1


class TestServerRestarts:
    """The whole server goes away and comes back."""

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_under_load_the_pool_is_itself_again_without_help(
        self, make_pool: MakePool, server_factory: ServerFactory, mode: StopMode
    ) -> None:
        server = await server_factory()
        pool = await make_pool(server.dsn(), min_size=3, max_size=5)
        done = asyncio.Event()

        async def client() -> None:
            while not done.is_set():
                try:
                    await pool.fetchval("SELECT 1")
                except (PoolError, *LOST):
                    await asyncio.sleep(0.01)

        clients = [asyncio.create_task(client()) for _ in range(10)]
        await eventually(lambda: pool.stats().borrowed > 100)
        await server.stop(mode)
        await eventually(lambda: pool.stats().size == 0)
        with pytest.raises(PoolUnavailable):
            await pool.acquire()
        await server.start()
        async with Stopwatch() as watch:
            await eventually(lambda: pool.get_size() >= 3)
        assert watch.seconds < 3
        done.set()
        await asyncio.gather(*clients)
        await eventually(lambda: at_rest(pool.stats()))
        assert_balanced(pool.stats())

        async def server_has_those_of_the_pool() -> bool:
            return len(await server.backends(application_name=pool.name)) == pool.get_size()

        await eventually(server_has_those_of_the_pool)
        await pool.drain(1)

    async def test_a_crashed_backend_takes_all_with_it_and_the_pool_is_itself_again(
        self, make_pool: MakePool, server_factory: ServerFactory
    ) -> None:
        server = await server_factory()
        pool = await make_pool(server.dsn(), min_size=2)
        server.crash_backend(await pid_of_next(pool))
        await eventually(lambda: pool.stats().closed.get("lost") == 2)
        await eventually(lambda: pool.get_idle_size() == 2)
        assert await pool.fetchval("SELECT 1") == 1
        await pool.drain(1)


class TestReadOnly:
    """25006 on a pool that asks for a writable server: it leaves the server that is none."""

    async def test_it_leaves_a_server_that_has_turned_read_only_for_the_writable_one(
        self, make_pool: MakePool, server_factory: ServerFactory, postgres: PostgresServer, events: Events
    ) -> None:
        server = await server_factory()
        pool = await make_pool(
            on_ports(postgres, server.port, postgres.port), min_size=2, target_session_attrs="read-write"
        )
        assert await pool.fetchval("SELECT inet_server_port()") == server.port
        async with server.connect() as admin:
            await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await admin.execute("SELECT pg_reload_conf()")

        async def write() -> None:
            await pool.execute("CREATE SCHEMA written; DROP SCHEMA written")

        async def is_refused() -> bool:
            return isinstance(
                (await asyncio.gather(write(), return_exceptions=True))[0],
                asyncpg.ReadOnlySQLTransactionError,
            )

        await eventually(is_refused)  # once the reload has reached the session
        await eventually(lambda: events.named("connections_expired"))
        assert events.named("connections_expired")[0].details["why"] == "read_only"
        assert await pool.fetchval("SELECT inet_server_port()") == postgres.port
        await write()

    async def test_a_read_only_transaction_is_not_taken_for_a_read_only_server(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1, target_session_attrs="primary")
        async with pool.acquire() as lease, lease.transaction(readonly=True):
            pid = lease.get_server_pid()
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await lease.execute("CREATE TABLE things ()")
        assert await pid_of_next(pool) == pid
        assert pool.stats().closed == {}

    async def test_a_pool_that_asks_for_any_server_stays(self, make_pool: MakePool) -> None:
        pool = await make_pool(
            max_size=1, server_settings={"default_transaction_read_only": "on"}, target_session_attrs="any"
        )
        pid = await pid_of_next(pool)
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await pool.execute("CREATE TABLE things ()")
        assert await pid_of_next(pool) == pid


class TestClasses:
    """All errors of borrowing are PoolError, and each carries the numbers of its moment."""

    async def test_each_carries_the_statistics(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire():
            for error in await asyncio.gather(
                pool.acquire(timeout=0), pool.acquire(timeout=0.01), return_exceptions=True
            ):
                assert isinstance(error, PoolError)
                assert error.stats.used == 1
                assert error.stats.name == pool.name
        await pool.close()
        with pytest.raises(PoolClosing) as caught:
            await pool.acquire()
        assert caught.value.stats.size == 0

    async def test_the_listener_s_own_failure_goes_no_further(
        self, make_pool: MakePool, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: object) -> None:
            raise ZeroDivisionError

        pool = await make_pool(on_event=broken)
        assert await pool.fetchval("SELECT 1") == 1
        assert "the listener of pool events failed" in caplog.text

    async def test_without_a_listener_events_are_lines_of_the_log(
        self, make_pool: MakePool, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "lifeguard.pool")
        pool = await make_pool(on_event=None)
        await pool.expire_connections()
        [record] = [record for record in caplog.records if "connections_expired" in record.message]
        assert record.levelname == "INFO"
        assert pool.name in record.message
        assert "in use" in record.message
