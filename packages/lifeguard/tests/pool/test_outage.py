"""The first seconds without a server are waited out; then all are refused at once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from lifeguard.pool import Pool, PoolTimeout, PoolUnavailable
from lifeguard.pool.queue import Total
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import waiting
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.pool.queues import TimedOut, connection, in_a_loop, make_queue

LONG = 60.0
"""Seconds: longer than anything here takes, so that it says nothing."""


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    async with Proxy(postgres.dsn()).serve() as proxy:
        yield proxy


async def goes_away(proxy: Proxy, pool: Pool) -> None:
    """The server ends all sessions and lets nobody in; the pool has noticed."""
    before = pool.stats().open_failures
    proxy.refuse_new = True
    proxy.reset_links()
    await eventually(lambda: pool.get_size() == 0 and pool.stats().open_failures > before)


class TestWhoComesInAnOutage:
    @pytest.mark.parametrize("lane", [None, "lane"])
    async def test_is_served_when_it_is_over_however_long_that_was_for_the_queue(
        self, make_pool: MakePool, proxy: Proxy, events: Events, lane: str | None
    ) -> None:
        """No wait here is below twice the target: as a rule only the last in the queue would be served."""
        pool = await make_pool(
            proxy.dsn, max_size=1, outage_patience=LONG, acquire_timeout=LONG, queue_target=0.0005
        )
        await goes_away(proxy, pool)
        backends = []

        async def borrow() -> None:
            async with pool.acquire(lane=lane) as lease:
                backends.append(await lease.fetchval("SELECT pg_backend_pid()"))

        borrowers = [asyncio.create_task(borrow()) for _ in range(5)]
        await waiting(pool, 5)
        await eventually(lambda: pool.waits_out_outage)
        assert pool.try_shed(lane=lane) is None
        proxy.resume()
        await asyncio.gather(*borrowers)
        assert len(backends) == 5
        assert not pool.stats().shed
        assert not pool.waits_out_outage
        (over,) = events.named("outage_over")
        assert over.details["waiting"] == 5

    async def test_is_refused_once_it_has_lasted_too_long(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, outage_patience=0.3, acquire_timeout=LONG)
        await goes_away(proxy, pool)
        with pytest.raises(PoolUnavailable):
            await pool.acquire()
        assert not pool.waits_out_outage
        borrower = asyncio.create_task(pool.acquire().__aenter__())
        await asyncio.sleep(0)
        assert pool.stats().waiting == 0  # it did not even join
        with pytest.raises(PoolUnavailable):
            await borrower

    async def test_waits_no_longer_than_it_wants(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, outage_patience=LONG, acquire_timeout=LONG)
        await goes_away(proxy, pool)
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0.1)

    async def test_is_refused_where_nobody_is_to_wait(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, outage_patience=0, acquire_timeout=LONG)
        await goes_away(proxy, pool)
        with pytest.raises(PoolUnavailable):
            await pool.acquire()

    async def test_is_refused_for_what_does_not_pass(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        password = [postgres.password]
        pool = await make_pool(
            postgres.dsn(), password=lambda: password[0], outage_patience=LONG, acquire_timeout=LONG
        )
        password[0] = "wrong"
        await pool.expire_connections()
        await eventually(lambda: pool.stats().fault == "authentication" and pool.get_size() == 0)
        with pytest.raises(PoolUnavailable):
            await pool.acquire()
        password[0] = postgres.password

    async def test_is_refused_while_the_server_has_never_been_there(self, make_pool: MakePool) -> None:
        dsn = f"postgresql://u:p@127.0.0.1:{unused_port()}/x"
        pool = await make_pool(dsn, outage_patience=LONG, acquire_timeout=LONG, ready=False)
        await eventually(lambda: pool.stats().open_failures)
        with pytest.raises(PoolUnavailable):
            await pool.acquire()

    async def test_waits_anew_in_the_next_outage(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, outage_patience=0.1, acquire_timeout=LONG)
        await goes_away(proxy, pool)
        await eventually(lambda: not pool.waits_out_outage)
        proxy.resume()
        await pool.wait_ready(LONG)
        pool._state.configure(replace(pool._state.config, outage_patience=LONG))
        await goes_away(proxy, pool)
        borrower = asyncio.create_task(pool.fetchval("SELECT 1"))
        proxy.resume()
        assert await borrower == 1


class TestALeaseInAnOutage:
    async def test_gets_a_connection_for_what_was_never_sent(self, make_pool: MakePool, proxy: Proxy) -> None:
        """Though none can be opened for a while."""
        pool = await make_pool(proxy.dsn, max_size=1, outage_patience=LONG, acquire_timeout=LONG)
        async with pool.acquire() as lease:
            await goes_away(proxy, pool)
            statement = asyncio.create_task(lease.fetchval("SELECT 1"))
            await waiting(pool, 1)
            proxy.resume()
            assert await statement == 1

    @pytest.mark.parametrize("query", ["SELECT pg_advisory_xact_lock_shared($1)", "SELECT $1::int"])
    async def test_that_only_reads_has_a_lost_statement_run_again(
        self, make_pool: MakePool, postgres: PostgresServer, query: str
    ) -> None:
        """Prepared before or not, once, and on another connection."""
        pool = await make_pool(max_size=2, outage_patience=LONG)
        async with postgres.connect() as admin, pool.acquire() as lease:
            await lease.fetch(query, 7)
            lease.promise_to_read()
            await admin.execute("SELECT pg_advisory_lock(7)")
            before = lease.get_server_pid()
            waits = "SELECT pg_advisory_xact_lock_shared($1)"
            reading = asyncio.create_task(lease.fetch(waits, 7))
            await eventually(lambda: is_blocked(admin, before))
            await postgres.kill(before)
            await eventually(
                lambda: lease.get_server_pid() != before and is_blocked(admin, lease.get_server_pid())
            )
            again = lease.get_server_pid()
            assert not reading.done()
            await postgres.kill(again)
            with pytest.raises(asyncpg.PostgresConnectionError):
                await reading

    async def test_that_only_reads_is_told_where_nobody_is_to_wait(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        """As is one that took longer than an outage is waited out: somebody may have ended it."""
        pool = await make_pool(outage_patience=0)
        async with postgres.connect() as admin, pool.acquire() as lease:
            lease.promise_to_read()
            await admin.execute("SELECT pg_advisory_lock(8)")
            reading = asyncio.create_task(lease.fetch("SELECT pg_advisory_xact_lock_shared(8)"))
            await eventually(lambda: is_blocked(admin, lease.get_server_pid()))
            await postgres.kill(lease.get_server_pid())
            with pytest.raises(asyncpg.PostgresConnectionError):
                await reading


async def is_blocked(admin: asyncpg.Connection, pid: int) -> bool:
    return bool(await admin.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid))


class TestTheQueue:
    @pytest.mark.parametrize(
        ("rate", "budget", "objection"),
        [
            (10.0, 0.51, None),  # five wait before it: half a second
            (10.0, 0.49, "deadline"),
            (0.0, 0.001, None),  # nothing was ever served: nothing is known
            (1e9, 0.001, None),
        ],
    )
    def test_takes_in_whom_it_can_serve_in_time_afterwards(
        self, rate: float, budget: float, objection: str | None
    ) -> None:
        async def run() -> None:
            queue = make_queue(0.25)
            queue._total.stand(rate)
            waiters = [queue.join(0.0, LONG) for _ in range(5)]
            # The wait so far, far above the target, is no objection; the longest queue is one.
            assert queue.objection(9.0, 20, budget, 1000) == objection
            assert queue.objection(9.0, 20, budget, 5) == "queue_full"
            queue.refuse_all(TimedOut)
            await asyncio.wait(waiters)

        in_a_loop(run())

    def test_is_as_before_once_the_backlog_is_served(self) -> None:
        async def run() -> None:
            queue = make_queue(0.25)
            total = queue._total
            total.stand(100.0)
            waiters = [queue.join(0.0, LONG) for _ in range(3)]
            total.shrink(until=20.0)
            for _ in waiters:
                assert total.lasts(10.0)
                assert queue.hand_out(connection(), 10.0)
            assert all(waiter.done() and waiter.exception() is None for waiter in waiters)
            assert not total.lasts(10.0)

        in_a_loop(run())

    def test_is_as_before_once_it_has_had_its_time(self) -> None:
        total = Total()
        total.stand(100.0)
        total.waiting = 1
        total.shrink(until=20.0)
        assert total.lasts(19.9)
        assert not total.lasts(20.0)
