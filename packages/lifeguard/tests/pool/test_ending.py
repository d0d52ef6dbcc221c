"""How a pool ends: drained, closed or terminated, always within a bound and with nothing left behind."""

import asyncio
from functools import partial
from time import monotonic

import asyncpg
import pytest
from lifeguard.pool import Pool, PoolClosing, PoolTimeout
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced, nothing_left
from packages.lifeguard.tests.pool.borrowers import pid_of_next
from packages.lifeguard.tests.pool.conftest import Events, MakePool, Watcher
from packages.lifeguard.tests.stopwatch import Stopwatch


def tasks_of(pool: Pool) -> list[str]:
    """The pool's background tasks that still run."""
    names = [task.get_name() for task in asyncio.all_tasks()]
    return [name for name in names if name.startswith(f"pool {pool.name}:")]


async def seconds_to_drain(pool: Pool, timeout: float) -> float:
    async with Stopwatch() as watch:
        await pool.drain(timeout)
    return watch.seconds


async def borrow(pool: Pool, enough: asyncio.Event) -> None:
    async with pool.acquire():
        await enough.wait()


class TestDrain:
    async def test_an_idle_pool_ends_at_once(self, make_pool: MakePool, watcher: Watcher) -> None:
        pool = await make_pool(min_size=3, max_size=3)
        async with Stopwatch() as watch:
            report = await pool.drain(10)
        assert watch.seconds < 1
        assert report.cut_off == ()
        assert report.refused == 0
        assert pool.stats().closed == {"pool_closing": 3}
        assert tasks_of(pool) == []
        await eventually(partial(watcher.sees_nothing_of, pool))

    async def test_newcomers_are_refused_from_the_start(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        enough = asyncio.Event()
        holder = asyncio.create_task(borrow(pool, enough))
        await eventually(lambda: pool.stats().used)
        draining = asyncio.create_task(pool.drain(10))
        await eventually(pool.is_closing)
        with pytest.raises(PoolClosing, match="the pool is draining") as caught:
            await pool.acquire()
        assert isinstance(caught.value, asyncpg.InterfaceError)
        assert caught.value.stats.closing_down
        assert not draining.done()
        enough.set()
        await holder
        assert (await draining).cut_off == ()

    async def test_the_queue_is_served(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        enough = asyncio.Event()
        holder = asyncio.create_task(borrow(pool, enough))
        await eventually(lambda: pool.stats().used)
        waiters = [asyncio.create_task(pid_of_next(pool)) for _ in range(3)]
        await eventually(lambda: pool.stats().waiting == 3)
        draining = asyncio.create_task(pool.drain(10))
        await eventually(pool.is_closing)
        enough.set()
        assert all(await asyncio.gather(*waiters))
        await holder
        assert (await draining).refused == 0

    async def test_the_queue_is_served_also_by_connections_that_are_yet_to_be_opened(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, ready=False)
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: proxy.links)
        draining = asyncio.create_task(pool.drain(60))
        await eventually(pool.is_closing)
        proxy.resume()
        assert await waiter
        async with Stopwatch() as watch:
            await draining
        assert watch.seconds < 5

    async def test_what_overstays_is_cut_off_and_named(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=1)
        enough = asyncio.Event()
        holder = asyncio.create_task(borrow(pool, enough))
        await eventually(lambda: pool.stats().used)
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().waiting == 1)
        async with Stopwatch() as watch:
            report = await pool.drain(0.1)
        assert report.seconds >= 0.1
        assert watch.seconds < 0.6
        assert ["borrow" in str(lease.borrowed_at) for lease in report.cut_off] == [True]
        assert report.refused == 1
        with pytest.raises(PoolClosing):
            await waiter
        [event] = events.named("pool_drained")
        assert event.level == "warning"
        assert event.details["refused"] == 1
        enough.set()
        await holder
        assert pool.stats().closed == {"cut_off": 1}

    async def test_idle_connections_that_nobody_needs_do_not_hold_it_up(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=3, max_size=3, validate_after=0)
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().validating == 1, interval=0)
        assert pool.get_idle_size() == 2
        async with Stopwatch() as watch:
            report = await pool.drain(5)
        assert await waiter
        assert watch.seconds < 1
        assert report.refused == 0

    async def test_a_suspended_pool_ends_when_its_waiters_have_left(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        pool.suspend()
        waiter = asyncio.create_task(pool.fetchval("SELECT 1"))
        await eventually(lambda: pool.stats().waiting == 1)
        draining = asyncio.create_task(pool.drain(60))
        await eventually(pool.is_closing)
        waiter.cancel()
        await asyncio.wait([waiter])
        async with Stopwatch() as watch:
            await draining
        assert watch.seconds < 1

    async def test_a_pool_that_was_never_opened_ends_as_well(self, postgres: PostgresServer) -> None:
        pool = Pool(postgres.dsn())
        assert await seconds_to_drain(pool, 5) < 1
        with pytest.raises(PoolClosing, match="is closed"):
            await pool.acquire()

    async def test_an_attempt_to_connect_does_not_hold_it_up(self, make_pool: MakePool, proxy: Proxy) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, ready=False)
        await eventually(lambda: proxy.links)
        assert await seconds_to_drain(pool, 10) < 0.5
        assert pool.stats().opening == 0
        assert tasks_of(pool) == []

    async def test_nor_does_a_server_that_is_not_there(self, make_pool: MakePool, proxy: Proxy) -> None:
        proxy.refuse_new = True
        pool = await make_pool(proxy.dsn, ready=False)
        await eventually(lambda: pool.stats().open_failures > 1)
        assert await seconds_to_drain(pool, 10) < 0.5
        accepted = proxy.accepted
        ended_at = monotonic()
        await eventually(lambda: monotonic() - ended_at > 0.2)
        assert proxy.accepted == accepted

    async def test_a_session_that_is_being_reset_is_waited_for(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        await pool.execute("SET search_path = pg_catalog")
        assert pool.stats().returning == 1
        await pool.drain(10)
        assert pool.stats().closed == {"pool_closing": 1}
        assert pool.stats().resets == 1

    async def test_one_that_cannot_be_reset_in_time_is_cut(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            await lease.execute("SET search_path = pg_catalog")
            proxy.silence()
        assert await seconds_to_drain(pool, 0.1) < 0.6
        assert_balanced(pool.stats())
        assert nothing_left(pool.stats())
        assert tasks_of(pool) == []

    async def test_a_connection_that_gets_no_goodbye_from_the_server_is_cut(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lifeguard.pool.tasks.CLOSE_BOUND", 0.1)
        pool = await make_pool(proxy.dsn)
        proxy.silence()
        assert await seconds_to_drain(pool, 5) < 1
        assert nothing_left(pool.stats())

    async def test_a_hook_that_hangs_is_broken_off(
        self, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lifeguard.pool.pool.CLOSE_BOUND", 0.1)

        async def reset(_: object) -> None:
            await asyncio.Event().wait()

        pool = await make_pool(max_size=1, reset=reset)
        await pid_of_next(pool)
        assert await seconds_to_drain(pool, 0.1) < 1
        assert tasks_of(pool) == []

    async def test_two_drains_end_together(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        await asyncio.gather(pool.drain(5), pool.drain(5))
        assert nothing_left(pool.stats())

    async def test_one_that_is_cancelled_ends_the_pool_now(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        lease = await pool.acquire()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.drain(10), 0.05)
        with pytest.raises(asyncpg.InterfaceError):
            await lease.fetchval("SELECT 1")
        await pool.release(lease)
        await eventually(lambda: nothing_left(pool.stats()))


class TestClose:
    async def test_it_waits_for_borrowers(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        enough = asyncio.Event()
        holder = asyncio.create_task(borrow(pool, enough))
        await eventually(lambda: pool.stats().used)
        closing = asyncio.create_task(pool.close())
        await eventually(pool.is_closing)
        assert not closing.done()
        enough.set()
        await asyncio.gather(holder, closing)
        assert pool.stats().closed == {"pool_closing": 1}

    async def test_a_second_time_does_nothing(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        await pool.close()
        await pool.close()
        assert pool.is_closing()

    async def test_a_closed_pool_stays_closed(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        await pool.close()
        with pytest.raises(asyncpg.InterfaceError, match="cannot be opened again"):
            await pool.open()
        with pytest.raises(PoolClosing):
            await pool.wait_ready(1)


class TestTerminate:
    async def test_it_cuts_every_connection_and_refuses_the_queue(
        self, make_pool: MakePool, watcher: Watcher
    ) -> None:
        pool = await make_pool(min_size=2, max_size=2)
        leases = [await pool.acquire(), await pool.acquire()]
        query = asyncio.create_task(leases[0].execute("SELECT pg_sleep(0.5)"))
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().waiting == 1)
        pool.terminate()
        with pytest.raises(PoolClosing):
            await waiter
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await query
        for lease in leases:
            await pool.release(lease)
        await eventually(lambda: nothing_left(pool.stats()) and not tasks_of(pool))
        assert pool.stats().closed == {"cut_off": 2}
        await eventually(partial(watcher.sees_nothing_of, pool))

    async def test_it_breaks_off_whatever_the_pool_is_doing(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, min_size=3, max_size=4, validate_after=0, health_check_interval=0)
        dirty, closing = await pool.acquire(), await pool.acquire()
        await dirty.execute("SET search_path = pg_catalog")
        proxy.silence()
        proxy.hold_new = True
        await pool.release(dirty)
        await pool.expire_connections()
        await pool.release(closing)
        waiter = asyncio.create_task(pool.fetchval("SELECT 1"))
        stats = pool.stats
        await eventually(lambda: stats().returning and stats().closing and stats().opening)
        pool.terminate()
        async with Stopwatch() as watch:
            await eventually(lambda: nothing_left(pool.stats()) and not tasks_of(pool))
        assert watch.seconds < 1
        assert_balanced(pool.stats())
        with pytest.raises(PoolClosing):
            await waiter

    async def test_a_pool_that_was_never_opened_ends_as_well(self, postgres: PostgresServer) -> None:
        pool = Pool(postgres.dsn())
        pool.terminate()
        assert pool.is_closing()

    async def test_it_ends_a_drain(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        lease = await pool.acquire()
        draining = asyncio.create_task(pool.drain(60))
        await eventually(pool.is_closing)
        pool.terminate()
        async with Stopwatch() as watch:
            await draining
        assert watch.seconds < 5
        await pool.release(lease)


async def test_the_context_manager_opens_and_closes(postgres: PostgresServer) -> None:
    async with Pool(postgres.dsn(), min_size=1) as pool:
        assert await pool.fetchval("SELECT 1") == 1
    assert pool.is_closing()
    assert nothing_left(pool.stats())


async def test_waiting_for_a_pool_that_hangs_ends_with_its_budget(make_pool: MakePool, proxy: Proxy) -> None:
    proxy.hold_new = True
    pool = await make_pool(proxy.dsn, ready=False)
    async with Stopwatch() as watch:
        with pytest.raises(PoolTimeout):
            await pool.wait_ready(0.1)
    assert watch.seconds < 0.4
