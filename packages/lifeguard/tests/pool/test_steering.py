"""What an operator can do to a pool while it works, and what it does by itself as time goes by."""

import asyncio
import random
from time import monotonic

import pytest
from lifeguard.pool import Pool, PoolSaturated, PoolTimeout
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest
from packages.lifeguard.tests.pool.borrowers import borrow_all, link_of, pid_of_next
from packages.lifeguard.tests.pool.conftest import MakePool


async def pids_of_all(pool: Pool, number: int) -> set[int]:
    leases = await borrow_all(pool, number)
    pids = {lease.get_server_pid() for lease in leases}
    for lease in leases:
        await pool.release(lease)
    return pids


class TestResize:
    async def test_a_larger_maximum_serves_the_queue_at_once(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire():
            waiter = asyncio.create_task(pid_of_next(pool))
            await eventually(lambda: pool.stats().waiting == 1)
            await pool.resize(max_size=2)
            assert await waiter
        assert pool.get_max_size() == 2

    async def test_a_larger_minimum_is_opened(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=5)
        await pool.resize(min_size=4)
        await eventually(lambda: pool.get_idle_size() == 4)
        assert pool.get_min_size() == 4

    async def test_idle_connections_above_a_smaller_maximum_are_gone_when_it_returns(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(min_size=4, max_size=4)
        await pool.resize(min_size=1, max_size=2)
        assert pool.get_size() == 2
        assert pool.stats().closing == 0
        assert pool.stats().closed == {"resized": 2}

        async def sessions() -> int:
            return len(await postgres.backends(application_name=pool.name))

        await eventually(lambda: is_equal(sessions(), 2))

    async def test_what_is_closing_already_is_not_closed_twice(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=10, max_size=10)
        await asyncio.gather(*(pool.resize(min_size=0, max_size=size) for size in (6, 5)))
        assert pool.get_size() == 5
        assert pool.stats().closed == {"resized": 5}

    async def test_after_any_resizes_the_smallest_maximum_is_left_whatever_was_in_use(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=0, max_size=8)
        dice = random.Random(10)
        for _ in range(15):
            await pool.resize(max_size=8)
            await pids_of_all(pool, 8)
            closed = pool.stats().closed.get("resized", 0)
            held = await borrow_all(pool, dice.randrange(9))
            maxima = [dice.randint(1, 8) for _ in range(dice.randint(1, 5))]
            resizes = [asyncio.create_task(pool.resize(max_size=maximum)) for maximum in maxima]
            for lease in held:
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0)
                await pool.release(lease)
            await asyncio.gather(*resizes)
            await eventually(lambda: at_rest(pool.stats()))
            assert pool.get_size() == min(maxima), maxima
            assert pool.stats().closed.get("resized", 0) - closed == 8 - min(maxima), maxima

    async def test_connections_in_use_above_it_close_when_they_come_back(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=0, max_size=3)
        leases = await borrow_all(pool, 3)
        await pool.resize(max_size=1)
        assert pool.get_size() == 3
        for lease in leases:
            assert await lease.fetchval("SELECT 1") == 1
            await pool.release(lease)
        await eventually(lambda: at_rest(pool.stats()))
        assert pool.get_size() == 1

    async def test_so_do_those_that_were_still_being_opened(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, min_size=1, max_size=4)
        proxy.hold_new = True
        async with pool.acquire():
            waiters = [asyncio.create_task(pid_of_next(pool)) for _ in range(3)]
            await eventually(lambda: pool.stats().opening >= 2)
            await pool.resize(max_size=1)
            proxy.resume()
        await asyncio.gather(*waiters)
        await eventually(lambda: at_rest(pool.stats()))
        assert pool.get_size() == 1

    async def test_a_pool_that_is_not_open_yet_remembers_it(self, postgres: PostgresServer) -> None:
        pool = Pool(postgres.dsn(), min_size=1, max_size=1)
        await pool.resize(max_size=3)
        assert (pool.get_max_size(), pool.get_size()) == (3, 0)

    async def test_the_coldest_go_first(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=3, max_size=3)
        warmest = await pid_of_next(pool)
        await pool.resize(min_size=1, max_size=1)
        assert await pid_of_next(pool) == warmest

    @pytest.mark.parametrize("sizes", [{"max_size": 0}, {"min_size": 3}, {"min_size": -1}], ids=str)
    async def test_sizes_that_make_no_sense_change_nothing(
        self, make_pool: MakePool, sizes: dict[str, int]
    ) -> None:
        pool = await make_pool(min_size=1, max_size=2)
        with pytest.raises(ValueError, match="size"):
            await pool.resize(**sizes)
        assert (pool.get_min_size(), pool.get_max_size()) == (1, 2)


async def is_equal(awaitable: object, value: object) -> bool:
    return (await awaitable) == value  # type: ignore[misc, no-any-return]  # any awaitable


class TestExpire:
    async def test_idle_connections_are_replaced_at_once(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=2, max_size=2)
        before = await pids_of_all(pool, 2)
        await pool.expire_connections()
        assert not before & await pids_of_all(pool, 2)
        assert pool.stats().closed == {"expired": 2}

    async def test_those_in_use_when_they_come_back(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            await pool.expire_connections()
            assert await lease.fetchval("SELECT 1") == 1
        assert await pid_of_next(pool) != pid

    async def test_those_that_come_back_dirty_as_well(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            await lease.execute("SET search_path = pg_catalog")
        await pool.expire_connections()  # while it is being reset
        assert await pid_of_next(pool) != pid

    async def test_those_being_checked_as_well(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, max_size=1, validate_after=0)
        before = pool.stats().opened
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().validating == 1, interval=0)
        await pool.expire_connections()
        await waiter
        assert pool.stats().opened == before + 1


class TestSuspend:
    async def test_borrowers_queue_until_it_is_over(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        pool.suspend()
        assert pool.stats().suspended
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().waiting == 1)
        assert pool.get_idle_size() == 1
        pool.resume()
        assert await waiter
        assert not pool.stats().suspended

    async def test_a_returned_connection_stays(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire():
            pool.suspend()
            waiter = asyncio.create_task(pid_of_next(pool))
            await eventually(lambda: pool.stats().waiting == 1)
        assert pool.get_idle_size() == 1
        assert not waiter.done()
        pool.resume()
        assert await waiter

    async def test_their_deadlines_hold(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        pool.suspend()
        with pytest.raises(PoolTimeout):
            await pool.acquire(timeout=0.05)
        pool.resume()

    async def test_the_longest_queue_holds(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_waiting=1)
        pool.suspend()
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().waiting == 1)
        with pytest.raises(PoolSaturated):
            await pool.acquire()
        pool.resume()
        await waiter


class TestAgeing:
    async def test_lifetime_ends_an_idle_connection_and_the_minimum_is_kept(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=2, max_lifetime=0.2)
        await eventually(lambda: pool.stats().closed.get("lifetime", 0) >= 4)
        await eventually(lambda: pool.get_idle_size() == 2)

    async def test_lifetime_ends_a_connection_in_use_when_it_comes_back(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, max_lifetime=0.2)
        async with pool.acquire() as lease:
            pid, borrowed_at = lease.get_server_pid(), monotonic()
            await eventually(lambda: monotonic() - borrowed_at > 0.4)
            assert await lease.fetchval("SELECT 1") == 1
        assert await pid_of_next(pool) != pid

    async def test_lifetime_ends_a_connection_that_goes_from_hand_to_hand(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, max_lifetime=0.2)
        pids: set[int] = set()

        async def keep_busy() -> None:
            while len(pids) < 3:
                pids.add(await pid_of_next(pool))
                await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(keep_busy(), keep_busy(), keep_busy()), 5)

    async def test_lifetimes_differ_by_up_to_a_tenth(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=20, max_size=20, max_lifetime=1000)
        lifetimes = [pooled.expires_at - pooled.opened_at for pooled in pool._state.members]
        assert 900 <= min(lifetimes) < 940
        assert 960 < max(lifetimes) <= 1000

    async def test_an_idle_pool_shrinks_to_its_minimum_and_never_below(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=2, max_size=5, idle_timeout=0.1)
        await pids_of_all(pool, 5)
        kept = await pids_of_all(pool, 2)
        await eventually(lambda: pool.stats().closed == {"idle": 3})
        looked_at = monotonic()
        await eventually(lambda: monotonic() - looked_at > 0.3)
        assert pool.stats().closed == {"idle": 3}
        assert await pids_of_all(pool, 2) == kept  # the cold ones have gone

    async def test_a_connection_in_use_is_not_idle(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=0, max_size=1, idle_timeout=0.1)
        async with pool.acquire() as lease:
            borrowed_at = monotonic()
            await eventually(lambda: monotonic() - borrowed_at > 0.3)
            assert await lease.fetchval("SELECT 1") == 1
        assert pool.get_idle_size() == 1
        await eventually(lambda: pool.get_size() == 0)

    async def test_an_idle_timeout_of_nothing_keeps_all(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=1, max_size=3, idle_timeout=0, health_check_interval=0.1)
        await pids_of_all(pool, 3)
        looked_at = monotonic()
        await eventually(lambda: monotonic() - looked_at > 0.3)
        assert pool.get_idle_size() + pool.stats().validating == 3


class TestProbes:
    """Idle connections are probed, so that trouble is noticed before a borrower comes."""

    @pytest.mark.parametrize("min_size", [0, 1])
    async def test_a_pool_without_a_minimum_probes_none_while_nobody_borrows(
        self, make_pool: MakePool, proxy: Proxy, min_size: int
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=min_size, idle_timeout=0, health_check_interval=0.05)
        assert await pool.fetchval("SELECT 1") == 1
        asked, used_at = proxy.asked, monotonic()
        await eventually(lambda: monotonic() - used_at > 0.3)
        assert (proxy.asked > asked) == (min_size > 0)
        assert pool.get_size() == 1

    async def test_a_silent_connection_is_noticed_and_replaced(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lifeguard.pool.tasks.CHECK_BOUND", 0.2)
        pool = await make_pool(proxy.dsn, health_check_interval=0.1)
        proxy.silence()
        await eventually(lambda: pool.stats().closed.get("failed_check") == 1)
        await eventually(lambda: pool.get_idle_size() == 1)
        assert await pool.fetchval("SELECT 1") == 1

    @pytest.mark.parametrize("way", ["questions", "answers"])
    async def test_one_that_is_silent_in_one_direction_as_well(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, way: str
    ) -> None:
        monkeypatch.setattr("lifeguard.pool.tasks.CHECK_BOUND", 0.2)
        pool = await make_pool(proxy.dsn, health_check_interval=0.1)
        proxy.silence(questions=way == "questions", answers=way == "answers")
        await eventually(lambda: pool.stats().closed.get("failed_check") == 1)

    async def test_a_connection_heard_of_lately_is_left_alone(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2, health_check_interval=60)
        async with pool.acquire() as lease:
            link = await link_of(lease, proxy)
        asked, looked_at = link.asked, monotonic()
        await eventually(lambda: monotonic() - looked_at > 0.2)
        assert link.asked == asked
