"""Who gets which connection, how soon, and what a borrower is told who gets none."""

import asyncio
from time import monotonic

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool, PoolClosing, PoolSaturated, PoolTimeout, tasks
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import link_of, pid_of_next, waiting
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch


async def test_an_idle_connection_is_lent_and_returned_without_suspending(make_pool: MakePool) -> None:
    pool = await make_pool()

    async def borrow() -> None:
        async with pool.acquire() as lease:
            assert lease.get_server_pid()

    with pytest.raises(StopIteration):  # the coroutine's end, at its first step
        borrow().send(None)
    assert pool.stats().borrowed == 1


async def test_the_connection_returned_last_is_lent_first(make_pool: MakePool) -> None:
    pool = await make_pool(min_size=3, max_size=3)
    first, second, third = [await pool.acquire() for _ in range(3)]
    last_returned = second.get_server_pid()
    for lease in (third, first, second):
        await pool.release(lease)
    assert [await pid_of_next(pool) for _ in range(3)] == [last_returned] * 3


async def test_a_live_idle_connection_comes_before_a_new_one(make_pool: MakePool) -> None:
    pool = await make_pool(min_size=1, max_size=5)
    for _ in range(10):
        await pool.fetchval("SELECT 1")
    assert pool.stats().opened == 1


async def test_a_waiter_gets_the_very_connection_that_is_returned(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire() as lease:
        pid = lease.get_server_pid()
        waiter = asyncio.create_task(pid_of_next(pool))
        await waiting(pool, 1)
    assert pool.stats().used == 1  # handed over on return, before the waiter's task has run
    assert await waiter == pid


async def test_a_borrower_that_waits_for_its_whole_budget_is_told_so(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire():
        asked_at = monotonic()
        async with Stopwatch() as watch:
            with pytest.raises(PoolTimeout) as caught:
                await pool.acquire(timeout=0.05)
        assert monotonic() - asked_at >= 0.045
        assert watch.seconds < 0.3
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.stats.used == 1
    assert "1 of 1 in use" in str(caught.value)
    assert pool.stats().timeouts == 1


async def test_the_pool_s_own_budget_holds_for_who_names_none(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1, acquire_timeout=0.05)
    async with pool.acquire():
        with pytest.raises(PoolTimeout):
            await pool.fetchval("SELECT 1")


async def test_a_budget_of_nothing_gets_what_is_idle_and_never_waits(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire(timeout=0):
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0)


async def test_a_connection_handed_to_a_borrower_cancelled_in_that_instant_is_not_lost(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(max_size=1)
    lease = await pool.acquire()
    waiter = asyncio.create_task(pid_of_next(pool))
    await waiting(pool, 1)
    await pool.release(lease)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert pool.stats().idle == 1
    assert pool.stats().used == 0


async def test_a_waiter_that_is_cancelled_does_not_stop_the_pool_before_it_has_left(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(max_size=1)
    lease = await pool.acquire()
    waiter = asyncio.create_task(pid_of_next(pool))
    await waiting(pool, 1)
    waiter.cancel()  # takes effect when its task runs next; until then its entry is still there
    await pool.release(lease)
    pool.resume()  # as anything else that brings waiters and idle connections together
    assert pool.get_idle_size() == 1
    await asyncio.wait([waiter])
    assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("max_waiting", [0, 2])
async def test_who_finds_the_queue_full_is_turned_away_at_once(make_pool: MakePool, max_waiting: int) -> None:
    pool = await make_pool(max_size=1, max_waiting=max_waiting)
    async with pool.acquire():
        waiters = [asyncio.create_task(pid_of_next(pool)) for _ in range(max_waiting)]
        await waiting(pool, max_waiting)
        with pytest.raises(PoolSaturated) as caught:
            await pool.acquire()
    assert caught.value.reason == "queue_full"
    assert caught.value.stats.waiting == max_waiting
    assert pool.stats().shed == {"queue_full": 1}
    await asyncio.gather(*waiters)


async def test_a_pool_in_which_nobody_may_wait_lends_what_is_idle_after_checking_it(
    make_pool: MakePool,
) -> None:
    pool = await make_pool(max_waiting=0, validate_after=0)
    assert await pool.fetchval("SELECT 1") == 1


async def test_an_acquire_is_good_for_one_lease(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=2)
    async with pool.acquire() as lease:
        with pytest.raises(asyncpg.InterfaceError, match="already acquired"):
            await lease
    with pytest.raises(asyncpg.InterfaceError, match="already acquired"):
        await lease
    assert pool.stats().borrowed == 1


async def test_an_acquire_awaited_twice_at_once_is_good_for_one_lease(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=2, min_size=2)
    held = [await pool.acquire(), await pool.acquire()]
    acquire = pool.acquire()

    async def borrow() -> Lease:
        return await acquire

    tasks = [asyncio.create_task(borrow()), asyncio.create_task(borrow())]
    await eventually(lambda: pool.stats().waiting)
    for lease in held:
        await pool.release(lease)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, asyncpg.InterfaceError) for outcome in outcomes].count(True) == 1
    await pool.release(acquire)
    assert pool.stats().used == 0


async def test_a_pool_that_is_not_open_lends_nothing(postgres: PostgresServer) -> None:
    with pytest.raises(PoolClosing, match="the pool is not open"):
        await Pool(postgres.dsn()).acquire()


class TestChecks:
    """A connection that was not heard of lately is checked before it is lent."""

    async def test_one_heard_of_lately_costs_no_round_trip(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn)
        asked = proxy.asked
        await pid_of_next(pool)
        assert proxy.asked == asked

    async def test_one_idle_for_longer_is_checked(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, validate_after=0)
        asked = proxy.asked
        await pid_of_next(pool)
        assert proxy.asked == asked + 1

    async def test_a_silent_one_costs_the_borrower_a_tenth_of_a_second_when_another_answers(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2, validate_after=0)
        async with pool.acquire() as newest:
            silent = newest.get_server_pid()
            (await link_of(newest, proxy)).silence()
        async with Stopwatch() as watch:
            assert await pid_of_next(pool) != silent
        assert watch.seconds < 0.6

    async def test_all_silent_ones_together_cost_no_more_than_the_time_of_one_check(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "CHECK_BOUND", 0.3)
        pool = await make_pool(proxy.dsn, min_size=2, validate_after=0, acquire_timeout=5)
        proxy.silence()
        async with Stopwatch() as watch:
            assert await pid_of_next(pool)
        assert watch.seconds < 0.3 + 0.5

    @pytest.mark.parametrize("somebody_waits", [False, True])
    async def test_one_that_was_held_while_its_line_fell_silent_is_checked(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, somebody_waits: bool
    ) -> None:
        monkeypatch.setattr(tasks, "CHECK_BOUND", 0.2)
        pool = await make_pool(proxy.dsn, max_size=1, validate_after=0.05, health_check_interval=0)
        async with pool.acquire() as lease:
            silent = await lease.fetchval("SELECT pg_backend_pid()")
            answered_at = monotonic()
            proxy.silence()
            await eventually(lambda: monotonic() - answered_at > 0.1)
            waiter = asyncio.create_task(pid_of_next(pool))
            if somebody_waits:
                await eventually(lambda: pool.stats().waiting == 1)
        assert await waiter != silent
        assert pool.stats().closed == {"failed_check": 1}

    async def test_only_an_answer_of_the_server_counts_as_one(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        [session] = pool._state.members
        heard_of_at = session.heard_of_at
        await pid_of_next(pool)
        assert session.heard_of_at == heard_of_at
        for method in (
            "execute",
            "fetch",
            "fetch",
            "fetchrow",
            "fetchval",
        ):  # the second fetch is the short way
            async with pool.acquire() as lease:
                await getattr(lease, method)("SELECT 1")
            assert session.heard_of_at > heard_of_at
            heard_of_at = session.heard_of_at

    async def test_one_failed_check_makes_every_older_connection_suspect(
        self, make_pool: MakePool, proxy: Proxy, events: Events, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "CHECK_BOUND", 0.2)
        pool = await make_pool(proxy.dsn, min_size=2, health_check_interval=0.05)
        failing, older = await pool.acquire(), await pool.acquire()
        (await link_of(failing, proxy)).silence()
        link, pid = await link_of(older, proxy), older.get_server_pid()
        await pool.release(failing)
        await eventually(lambda: events.named("connections_suspect"))
        assert events.named("connections_suspect")[0].details["why"] == "failed_check"

        await eventually(lambda: pool.get_idle_size() == 1)  # another one instead of the one that failed
        asked = link.asked
        await pool.release(older)
        assert await pid_of_next(pool) == pid
        assert link.asked == asked + 1

    async def test_a_check_that_finds_the_server_gone_makes_room_for_a_new_connection(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=1, validate_after=0)
        before = await pid_of_next(pool)
        proxy.links[0].reset()
        assert await pid_of_next(pool) != before


class TestSetup:
    """The `setup` hook runs with every lease before its borrower gets it."""

    async def test_it_gets_the_lease_each_time(self, make_pool: MakePool) -> None:
        seen = []

        async def setup(lease: Lease) -> None:
            seen.append(lease)

        pool = await make_pool(setup=setup)
        async with pool.acquire() as first:
            pass
        async with pool.acquire() as second:
            pass
        assert seen == [first, second]

    async def test_what_it_does_to_the_session_costs_no_reset(self, make_pool: MakePool) -> None:
        async def setup(lease: Lease) -> None:
            await lease.execute("SET search_path = pg_catalog")

        pool = await make_pool(setup=setup)
        assert await pool.fetchval("SHOW search_path") == "pg_catalog"
        assert pool.stats().resets == 0
        assert pool.get_idle_size() == 1

    async def test_its_failure_is_the_borrower_s_and_costs_the_connection(self, make_pool: MakePool) -> None:
        calls = 0

        async def setup(_: Lease) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ZeroDivisionError

        pool = await make_pool(max_size=1, setup=setup)
        with pytest.raises(ZeroDivisionError):
            await pool.acquire()
        assert await pool.fetchval("SELECT 1") == 1
        assert pool.stats().closed == {"setup_failed": 1}

    async def test_the_wait_and_the_hook_share_one_budget(self, make_pool: MakePool) -> None:
        hang = False

        async def setup(_: Lease) -> None:
            if hang:
                await asyncio.Event().wait()

        pool = await make_pool(max_size=1, setup=setup)
        lease = await pool.acquire()
        hang = True
        asked_at = monotonic()
        async with Stopwatch() as watch:
            waiter = asyncio.create_task(asyncio.wait_for(pool.acquire(timeout=0.5), 60))
            await waiting(pool, 1)
            await eventually(lambda: monotonic() - asked_at > 0.4)
            await pool.release(lease)
            with pytest.raises(TimeoutError):
                await waiter
        assert watch.seconds < 0.75

    async def test_a_connection_that_expires_meanwhile_is_not_lent_again(self, make_pool: MakePool) -> None:
        async def setup(lease: Lease) -> None:
            if pool.stats().borrowed == 1:
                await pool.expire_connections()

        pool = await make_pool(max_size=1, setup=setup)
        async with pool.acquire() as lease:
            before = lease.get_server_pid()
            waiter = asyncio.create_task(pid_of_next(pool))
            await waiting(pool, 1)
        assert await waiter != before
