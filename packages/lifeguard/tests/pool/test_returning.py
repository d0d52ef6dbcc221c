"""What happens to a connection when its borrower is done with it, one way or another."""

import asyncio

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool, cleanup
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest
from packages.lifeguard.tests.pool.borrowers import link_of, pid_of_next
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch


async def is_in_transaction(pool: Pool) -> bool:
    """Whether the next borrower gets a session in another one's transaction."""
    async with pool.acquire() as lease:
        await lease.execute("SELECT 1")
        return lease.is_in_transaction()  # as the server said in its answer


async def sleeping(postgres: PostgresServer, pool: Pool) -> asyncpg.Record | None:
    """The pool's session that is in `pg_sleep`; for `eventually`."""
    for session in await postgres.backends(application_name=pool.name):
        if session["wait_event"] == "PgSleep":
            return session
    return None


class TestClean:
    """A session that nobody changed goes on at once, with no round trip."""

    async def test_it_costs_no_round_trip(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn)
        async with pool.acquire() as lease:
            await lease.fetchval("SELECT 1")
            asked = proxy.asked
        assert pool.get_idle_size() == 1
        await pid_of_next(pool)
        assert proxy.asked == asked

    async def test_a_transaction_that_was_ended_is_clean(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire() as lease:
            async with lease.transaction():
                await lease.execute("SET LOCAL statement_timeout = 1000")
            with pytest.raises(ZeroDivisionError):
                async with lease.transaction():
                    raise ZeroDivisionError
        assert pool.get_idle_size() == 1

    async def test_prepared_statements_stay_for_the_next_borrower(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn)
        await pool.fetchval("SELECT $1::int", 1)
        asked = proxy.asked
        await pool.fetchval("SELECT $1::int", 2)
        assert proxy.asked == asked + 1


class TestTransactions:
    """A transaction left open is rolled back."""

    @pytest.mark.parametrize("statement", ["SELECT 1", "SELECT 1 / 0"], ids=["open", "failed"])
    async def test_begun_by_hand(self, make_pool: MakePool, statement: str) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            await lease.execute("BEGIN")
            await asyncio.gather(lease.execute(statement), return_exceptions=True)
        assert not await is_in_transaction(pool)
        assert await pid_of_next(pool) == pid

    async def test_begun_by_transaction(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            await lease.transaction().start()
            await lease.transaction().start()
        assert not await is_in_transaction(pool)
        assert await pid_of_next(pool) == pid

    async def test_begun_with_a_prelude(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            begun = await lease.begin(read_only=True, prelude="SET LOCAL statement_timeout = '7s'")
            assert await lease.fetchval("SHOW statement_timeout") == "7s"
            assert await lease.commit(begun, timeout=5) == "COMMIT"
        assert pool.get_idle_size() == 1  # clean
        async with pool.acquire() as lease:
            await lease.begin()
        assert not await is_in_transaction(pool)

    async def test_what_it_wrote_is_gone(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)
        async with pool.acquire() as lease:
            await lease.execute("BEGIN; CREATE TABLE things ()")
        assert await pool.fetchval("SELECT to_regclass('things')") is None
        assert pool.get_idle_size() == 1

    async def test_a_begin_still_in_flight_is_nobody_else_s_transaction(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            begin = asyncio.create_task(lease.transaction().start())
            await asyncio.sleep(0)
        assert not await is_in_transaction(pool)
        await asyncio.wait([begin])
        assert not await is_in_transaction(pool)

    async def test_a_commit_still_in_flight_is_not_taken_for_done(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            transaction = lease.transaction()
            await transaction.start()
            commit = asyncio.create_task(transaction.commit())
            await asyncio.sleep(0)
        assert not await is_in_transaction(pool)
        await asyncio.wait([commit])


@pytest.mark.parametrize("begin", ["BEGIN; SET LOCAL", "SET"], ids=["transaction", "session"])
async def test_a_statement_that_was_prepared_and_ran_out_of_time_costs_no_connection(
    make_pool: MakePool, postgres: PostgresServer, begin: str
) -> None:
    """The server's clock runs from the Parse to the next message, which is that of whoever comes next."""
    pool = await make_pool(max_size=1)
    async with pool.acquire() as lease:
        pid = lease.get_server_pid()
        await lease.execute(f"{begin} statement_timeout = '20ms'")
        await lease.prepare("SELECT 'something new'")
        async with postgres.connect() as other:
            await other.execute("SELECT pg_sleep(0.05)")
    assert await pid_of_next(pool) == pid
    assert await pool.fetchval("SELECT 'an answer of its own'") == "an answer of its own"
    assert pool.stats().closed == {}


class TestQueriesUnderWay:
    async def test_a_cancelled_query_is_ended_and_its_session_lent_again(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=1)
        query = asyncio.create_task(pool.execute("SELECT pg_sleep(60)"))
        session = await eventually(lambda: sleeping(postgres, pool))
        assert session is not None
        query.cancel()
        assert await pool.fetchval("SELECT pg_backend_pid()") == session["pid"]
        assert pool.stats().closed == {}

    async def test_a_cancel_that_the_server_does_not_acknowledge_costs_the_connection_in_bounded_time(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cleanup, "STEP_BOUND", 0.2)
        pool = await make_pool(proxy.dsn, max_size=1)
        lease = await pool.acquire()
        query = asyncio.create_task(lease.execute("SELECT pg_sleep(60)"))
        await asyncio.sleep(0)
        proxy.silence()
        query.cancel()
        await asyncio.wait([query])
        await pool.release(lease)
        async with Stopwatch() as watch:
            assert await pool.fetchval("SELECT 1") == 1
        assert watch.seconds < 0.8
        assert sum(pool.stats().closed.values()) == 1

    async def test_a_query_that_outlasts_its_timeout_leaves_the_lease_usable(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await lease.fetch("SELECT pg_sleep(60)", timeout=0.05)
                assert await lease.fetchval("SELECT 1") == 1
        assert pool.stats().closed == {}

    async def test_a_query_of_another_task_costs_the_connection_and_never_the_next_borrower(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            query = asyncio.create_task(lease.execute("SELECT pg_sleep(60)"))
            await eventually(lambda: sleeping(postgres, pool))
        assert await pool.fetchval("SELECT 1") == 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await query
        assert pool.stats().closed == {"returned_busy": 1}
        assert not await sleeping(postgres, pool)

    @pytest.mark.parametrize("how", ["statement", "cursor"])
    async def test_so_does_one_on_a_prepared_statement_or_a_cursor(
        self, make_pool: MakePool, postgres: PostgresServer, how: str
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            if how == "statement":
                statement = await lease.prepare("SELECT pg_sleep(60)")
                query = asyncio.create_task(statement.fetch())
            else:
                await lease.execute("BEGIN")
                cursor = await lease.cursor("SELECT pg_sleep(60)")
                query = asyncio.create_task(cursor.fetch(1))
            await eventually(lambda: sleeping(postgres, pool))
        assert await pool.fetchval("SELECT 1") == 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await query
        await eventually(lambda: not_sleeping(postgres, pool))

    async def test_a_prepared_statement_that_is_done_costs_one_round_trip(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            statement = await lease.prepare("SELECT 1")
            await statement.fetch()
            asked = proxy.asked
        await pid_of_next(pool)
        assert proxy.asked == asked + 1
        assert pool.stats().resets == 0


async def not_sleeping(postgres: PostgresServer, pool: Pool) -> bool:
    return not await sleeping(postgres, pool)


class TestDeadLease:
    """A lease is dead once it is returned, also when its connection is somebody else's by then."""

    @pytest.mark.parametrize("lent_again", [False, True])
    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("fetch", ["SELECT 1"]),
            ("fetchrow", ["SELECT 1"]),
            ("fetchval", ["SELECT 1"]),
            ("fetchmany", ["SELECT $1::int", [(1,)]]),
            ("execute", ["SELECT 1"]),
            ("executemany", ["SELECT $1::int", [(1,)]]),
            ("copy_from_query", ["SELECT 1"]),
            ("copy_from_table", ["pg_class"]),
            ("copy_to_table", ["things"]),
            ("copy_records_to_table", ["things"]),
            ("prepare", ["SELECT 1"]),
            ("cursor", ["SELECT 1"]),
            ("transaction", []),
            ("add_listener", ["channel", print]),
            ("add_log_listener", [print]),
            ("add_termination_listener", [print]),
            ("add_query_logger", [print]),
            ("query_logger", [print]),
            ("set_type_codec", ["json"]),
            ("reset_type_codec", ["json"]),
            ("set_builtin_type_codec", ["json"]),
            ("reset", []),
            ("close", []),
            ("terminate", []),
            ("is_in_transaction", []),
            ("is_closed", []),
            ("get_server_pid", []),
            ("mark_dirty", []),
            ("begin", []),
        ],
        ids=str,
    )
    async def test_its_methods_raise(
        self, make_pool: MakePool, method: str, arguments: list[object], lent_again: bool
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            pass
        successor = await pool.acquire() if lent_again else None
        with pytest.raises(asyncpg.InterfaceError, match=rf"{method}\(\).*released back to the pool"):
            await getattr(lease, method)(*arguments)
        if successor is not None:
            assert await successor.fetchval("SELECT 1") == 1
            await pool.release(successor)

    async def test_what_was_made_on_it_raises(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            statement = await lease.prepare("SELECT 1")
            transaction = lease.transaction()
            await transaction.start()
            cursor = await lease.cursor("SELECT 1")
        async with pool.acquire():
            for use in (statement.fetch, cursor.fetchrow, transaction.commit, transaction.rollback):
                with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
                    await use()

    async def test_a_return_inside_the_with_block_is_the_return(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            await pool.release(lease)
            successor = await pool.acquire(timeout=0)
        assert await successor.fetchval("SELECT 1") == 1
        await pool.release(successor)

    async def test_a_second_return_does_nothing(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        lease = await pool.acquire()
        await pool.release(lease)
        async with pool.acquire() as successor:
            await pool.release(lease)
            assert await successor.fetchval("SELECT 1") == 1
            assert pool.stats().used == 1

    async def test_a_lease_of_another_pool_is_refused(self, make_pool: MakePool) -> None:
        pool, other = await make_pool(), await make_pool()
        async with pool.acquire() as lease:
            with pytest.raises(asyncpg.InterfaceError, match="not a member of this pool"):
                await other.release(lease)
            assert await lease.fetchval("SELECT 1") == 1


class TestLostInUse:
    """A session that ends while it is lent is replaced at once."""

    async def test_by_the_server(self, make_pool: MakePool, postgres: PostgresServer) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            await postgres.kill(lease.get_server_pid())
            assert await pool.fetchval("SELECT 1", timeout=5) == 1
        assert pool.stats().closed == {"lost": 1}

    @pytest.mark.parametrize("how", ["close", "terminate"])
    async def test_by_the_borrower(self, make_pool: MakePool, how: str) -> None:
        pool = await make_pool(max_size=1)
        lease = await pool.acquire()
        if how == "close":
            await lease.close()
        else:
            lease.terminate()
        assert await pool.fetchval("SELECT 1") == 1
        await pool.release(lease)
        await eventually(lambda: pool.get_idle_size() == 1)

    async def test_by_a_reset_of_the_network(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(
            proxy.dsn, max_size=1, server_settings={"client_connection_check_interval": "10"}
        )
        asked = proxy.asked
        async with pool.acquire() as lease:
            query = asyncio.create_task(lease.execute("SELECT pg_sleep(60)"))
            await eventually(lambda: proxy.asked > asked)
            proxy.reset_links()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
                await query
        assert await pool.fetchval("SELECT 1") == 1


class TestCare:
    """What a returned session needs happens after its borrower has gone on."""

    async def test_the_borrower_does_not_wait_for_it(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        lease = await pool.acquire()
        await lease.execute("SET search_path = pg_catalog")
        proxy.silence()
        releasing = pool.release(lease)
        with pytest.raises(StopIteration):  # the coroutine's end, at its first step
            releasing.send(None)
        assert pool.stats().returning == 1
        proxy.resume()
        await eventually(lambda: pool.get_idle_size() == 1)

    async def test_the_next_one_waits_for_it(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        lease = await pool.acquire()
        await lease.execute("SET search_path = pg_catalog")
        proxy.silence()
        await pool.release(lease)
        waiter = asyncio.create_task(pool.fetchval("SHOW search_path"))
        await eventually(lambda: pool.stats().waiting == 1)
        proxy.resume()
        assert "public" in await waiter
        assert pool.stats().opened == 1

    async def test_a_session_that_cannot_be_made_fit_is_replaced(
        self, make_pool: MakePool, events: Events
    ) -> None:
        calls = 0

        async def init(connection: asyncpg.Connection) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                await connection.execute("SELECT 1 / 0")

        pool = await make_pool(max_size=1, init=init)
        pid = await pid_of_next(pool)
        await pool.execute("SET search_path = pg_catalog")
        assert await pid_of_next(pool) != pid
        assert events.named("return_failed")[0].details["error"] == "DivisionByZeroError: division by zero"

    async def test_a_connection_that_turned_suspect_is_checked_although_it_needed_care(
        self, make_pool: MakePool, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2)
        doomed, other = await pool.acquire(), await pool.acquire()
        link = await link_of(other, proxy)
        await postgres.kill(doomed.get_server_pid())
        await eventually(lambda: pool.get_idle_size() == 1)  # another one instead of the one killed
        other.add_log_listener(print)  # undone without asking the server
        asked, pid = link.asked, other.get_server_pid()
        await pool.release(other)
        await eventually(lambda: pool.get_idle_size() == 2)
        assert await pid_of_next(pool) == pid
        assert link.asked == asked + 1
        await pool.release(doomed)


async def test_2000_borrowers_cancelled_at_random_instants_lose_nothing(
    make_pool: MakePool, postgres: PostgresServer
) -> None:
    pool = await make_pool(min_size=2, max_size=8, max_waiting=2000, queue_target=0)
    cancel_after = iter(range(2000))

    async def request(number: int) -> None:
        async with pool.acquire() as lease, lease.transaction():
            await lease.fetchval("SELECT $1::int", number)
            await lease.execute(f"SELECT pg_sleep({number % 7 / 1000})")

    async def impatient(lease: Lease | None = None) -> None:
        number = next(cancel_after)
        task = asyncio.create_task(request(number))
        for _ in range(number * 7919 % 50):  # steps of the event loop: any step of the way may be hit
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def client() -> None:
        for _ in range(20):
            await impatient()

    await asyncio.gather(*(client() for _ in range(100)))
    await eventually(lambda: at_rest(pool.stats()))
    assert pool.stats().used == 0
    assert 2 <= pool.get_size() <= 8

    async def are_all_idle() -> bool:
        sessions = await postgres.backends(application_name=pool.name)
        return [session["state"] for session in sessions] == ["idle"] * pool.get_size()

    await eventually(are_all_idle)  # the server ends a session after its client has
