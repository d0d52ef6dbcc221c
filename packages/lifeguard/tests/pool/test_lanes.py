"""Lanes of a real pool: what one lane does, and what the others see of it."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import asyncpg
import pytest
from lifeguard.pool import (
    Lease,
    OutsideLane,
    Pool,
    PoolClosing,
    PoolError,
    PoolEvent,
    PoolSaturated,
    PoolTimeout,
)
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_counted_right
from packages.lifeguard.tests.pool.conftest import MakePool


async def borrow(pool: Pool, lane: Any, number: int, **options: Any) -> list[Lease]:
    return [await pool.acquire(lane=lane, **options) for _ in range(number)]


async def give_back(pool: Pool, leases: list[Lease]) -> None:
    for lease in leases:
        await pool.release(lease)


def waiting(pool: Pool, number: int) -> Any:
    return eventually(lambda: pool.stats().waiting == number)


class TestWhoIsNext:
    async def test_inside_a_lane_it_is_first_come_first_served(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=2, queue_target=0)
        served: list[int] = []

        async def borrower(number: int) -> None:
            async with pool.acquire(lane="same"):
                served.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*map(borrower, range(100)))
        assert served == list(range(100))
        assert_counted_right(pool)

    async def test_between_lanes_it_is_the_one_that_holds_least(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=3, queue_target=0)
        held = await borrow(pool, "greedy", 3)
        order: list[str] = []

        async def borrower(lane: str) -> None:
            async with pool.acquire(lane=lane):
                order.append(lane)

        greedy = [asyncio.create_task(borrower("greedy")) for _ in range(3)]
        await waiting(pool, 3)
        modest = asyncio.create_task(borrower("modest"))
        await waiting(pool, 4)
        await give_back(pool, held)
        await asyncio.gather(modest, *greedy)
        assert order[0] == "modest"

    async def test_the_more_important_is_served_first(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, queue_target=0)
        [held] = await borrow(pool, "a", 1)
        order: list[str] = []

        async def borrower(priority: Any) -> None:
            async with pool.acquire(lane="a", priority=priority):
                order.append(priority)

        tasks = []
        for number, priority in enumerate(("background", "normal", "critical"), 1):
            tasks.append(asyncio.create_task(borrower(priority)))
            await waiting(pool, number)
        await pool.release(held)
        await asyncio.gather(*tasks)
        assert order == ["critical", "normal", "background"]

    async def test_an_unknown_priority_is_refused(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        with pytest.raises(ValueError, match="critical, normal, background"):
            pool.acquire(priority=cast("Any", "urgent"))


class TestWhatIsKept:
    async def test_what_is_kept_for_others_is_lent_once_they_have_not_come_for_a_while(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=4, max_size=4, queue_target=0)
        await give_back(pool, await borrow(pool, "other", 1))
        # Nothing comes back meanwhile: the passing of time alone must do it.
        leases = await asyncio.gather(*(pool.acquire(lane="all", timeout=9).__aenter__() for _ in range(4)))
        assert pool.stats().used == 4
        await give_back(pool, leases)

    async def test_a_lane_that_hangs_before_anything_is_known_of_it_leaves_one_to_the_others(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=4, max_size=4, queue_target=0)
        for lane in ("a", "b"):
            await give_back(pool, await borrow(pool, lane, 1))
        tasks = [asyncio.create_task(pool.acquire(lane="hangs").__aenter__()) for _ in range(4)]
        await waiting(pool, 1)
        assert pool.stats().used == 3
        a = await pool.acquire(lane="a", timeout=1)
        tasks.pop().cancel()
        await give_back(pool, [a, *await asyncio.gather(*tasks)])


class TestLimits:
    async def test_at_most_holds_and_blocks_nobody_else(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=3, max_size=3, queue_target=0)
        pool.set_lane("reports", at_most=1)
        [held] = await borrow(pool, "reports", 1)
        waiter = asyncio.create_task(pool.acquire(lane="reports").__aenter__())
        await waiting(pool, 1)
        others = await borrow(pool, "other", 2, timeout=1)
        assert pool.stats().waiting == 1
        await give_back(pool, others)
        assert not waiter.done()
        await pool.release(held)
        await pool.release(await waiter)
        assert next(lane for lane in pool.stats().lanes if lane.name == "reports").at_most == 1

    async def test_at_least_is_kept_for_a_lane_that_was_quiet(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=4, max_size=4, queue_target=0, acquire_timeout=0.2)
        pool.set_lane("payments", at_least=2)
        others = [*await borrow(pool, "a", 1), *await borrow(pool, "b", 1)]
        for lane in ("c", "d"):
            with pytest.raises(PoolTimeout):
                await pool.acquire(lane=lane)
        payments = await borrow(pool, "payments", 2, timeout=0)
        assert_counted_right(pool)
        await give_back(pool, [*others, *payments])

    async def test_weight_is_a_share(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=3, max_size=3, queue_target=0)
        pool.set_lane("heavy", weight=2)
        held = [*await borrow(pool, "heavy", 1), *await borrow(pool, "light", 1), *await borrow(pool, "x", 1)]
        light = asyncio.create_task(pool.acquire(lane="light").__aenter__())
        await waiting(pool, 1)
        heavy = asyncio.create_task(pool.acquire(lane="heavy").__aenter__())
        await waiting(pool, 2)
        await pool.release(held.pop())
        await asyncio.wait([light, heavy], return_when=asyncio.FIRST_COMPLETED)
        assert (heavy.done(), light.done()) == (True, False)
        await give_back(pool, [*held, await heavy])
        await pool.release(await light)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"at_most": 0},
            {"at_least": -1},
            {"at_least": 3, "at_most": 2},
            {"at_least": 4},
            {"weight": 0},
            {"weight": float("nan")},
        ],
    )
    async def test_what_cannot_be_kept_is_refused(self, make_pool: MakePool, wrong: dict[str, Any]) -> None:
        pool = await make_pool(max_size=4)
        with pytest.raises(ValueError, match=r"at_most|at_least|weight"):
            pool.set_lane("a", **wrong)

    async def test_a_pool_is_not_made_smaller_than_what_was_promised(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=0, max_size=4)
        pool.set_lane("a", at_least=2)
        with pytest.raises(ValueError, match="at_least"):
            await pool.resize(max_size=2)
        await pool.resize(max_size=3)


class TestNothingIsLost:
    async def test_lanes_may_come_while_connections_are_out_and_borrowers_wait(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(max_size=1)
        held = await pool.acquire()
        first = asyncio.create_task(pool.acquire().__aenter__())
        await waiting(pool, 1)
        second = asyncio.create_task(pool.acquire(lane="a").__aenter__())
        await waiting(pool, 2)
        assert_counted_right(pool)
        await pool.release(held)
        for task in (second, first):
            await pool.release(await task)
        assert_counted_right(pool)

    async def test_a_waiter_that_is_cancelled_as_it_is_served_gives_back(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        held = await pool.acquire(lane="a")
        waiter = asyncio.create_task(pool.acquire(lane="b").__aenter__())
        await waiting(pool, 1)
        await pool.release(held)  # hands over; the waiter's task has not run yet
        waiter.cancel()
        await asyncio.wait([waiter])
        assert_counted_right(pool)
        await pool.release(await pool.acquire(lane="c"))

    async def test_a_connection_lost_in_use_is_no_longer_its_lane_s(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=2)
        lease = await pool.acquire(lane="a")
        await postgres.kill(lease.get_server_pid())
        await eventually(lambda: pool.stats().closed.get("lost") == 1)
        assert_counted_right(pool)
        await pool.release(lease)
        assert_counted_right(pool)

    async def test_a_lease_goes_on_in_its_lane_on_another_connection(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=2)
        async with pool.acquire(lane="a", priority="critical") as lease:
            await postgres.kill(lease.get_server_pid())
            await eventually(lambda: pool.stats().closed.get("lost") == 1)
            assert await lease.fetchval("SELECT 1") == 1
            [info] = pool.leases()
            assert (info.lane, info.priority) == ("a", "critical")
            assert_counted_right(pool)
        assert_counted_right(pool)

    async def test_a_suspended_pool_lends_to_no_lane_and_goes_on_afterwards(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=2, max_size=2)
        pool.suspend()
        tasks = [asyncio.create_task(pool.acquire(lane=lane).__aenter__()) for lane in "ab"]
        await waiting(pool, 2)
        pool.resume()
        await give_back(pool, await asyncio.gather(*tasks))
        assert_counted_right(pool)

    async def test_draining_serves_all_lanes_without_keeping_anything(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=2, max_size=2, queue_target=0)
        pool.set_lane("never comes", at_least=1)
        await give_back(pool, await borrow(pool, "a", 1))
        [held] = await borrow(pool, "a", 1)
        tasks = [asyncio.create_task(pool.acquire(lane="a").__aenter__()) for _ in range(2)]
        await waiting(pool, 2)
        drain = asyncio.create_task(pool.drain(10))
        served = await asyncio.wait_for(tasks[0], 5)
        await pool.release(held)
        await give_back(pool, [served, await tasks[1]])
        assert (await drain).refused == 0

    async def test_closing_refuses_the_waiters_of_all_lanes(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        held = await pool.acquire(lane="a")
        tasks = [asyncio.create_task(pool.acquire(lane=lane).__aenter__()) for lane in range(50)]
        await waiting(pool, 50)
        pool.terminate()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, PoolClosing) for each in outcomes)
        with suppress(asyncpg.InterfaceError):
            await pool.release(held)


class TestRefusing:
    async def test_the_queue_is_one_for_all_lanes(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, max_waiting=20)
        held = await pool.acquire(lane="a")
        tasks = [asyncio.create_task(pool.acquire(lane=lane).__aenter__()) for lane in range(20)]
        await waiting(pool, 20)
        with pytest.raises(PoolSaturated) as refused:
            await pool.acquire(lane="one more")
        assert refused.value.reason == "queue_full"
        assert pool.try_shed(lane="one more") is not None
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await pool.release(held)
        assert_counted_right(pool)

    async def test_the_lower_a_priority_the_sooner_the_queue_is_full_for_it(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(max_size=1, max_waiting=8, queue_target=0)
        held = await pool.acquire(priority="critical")
        tasks = []
        rooms: list[tuple[Any, int]] = [("background", 4), ("normal", 6), ("critical", 8)]
        for priority, room in rooms:
            while pool.try_shed(priority=priority) is None:
                tasks.append(asyncio.create_task(pool.acquire(priority=priority).__aenter__()))
                await waiting(pool, len(tasks))
            assert len(tasks) == room
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await pool.release(held)


class TestBreaker:
    async def test_a_lane_that_hangs_is_refused_until_something_of_it_succeeds(
        self, make_pool: MakePool
    ) -> None:
        events: list[PoolEvent] = []
        pool = await make_pool(min_size=3, max_size=3, on_event=events.append)
        pool.set_lane("hangs", at_most=2)
        hanging = await borrow(pool, "hangs", 2)
        waiter = asyncio.create_task(pool.acquire(lane="hangs", timeout=60).__aenter__())
        await asyncio.sleep(0)  # it waits, and is no probe of a breaker that has been open for long
        with suppress(PoolError):
            await pool.acquire(lane="hangs", timeout=0.01)
        with pytest.raises(PoolSaturated) as refused:
            await waiter
        assert refused.value.reason == "lane_breaker"
        assert refused.value.retry_after > 0
        await pool.release(await pool.acquire(lane="other", timeout=2))
        assert [lane.breaker for lane in pool.stats().lanes if lane.name == "hangs"] == ["open"]
        await give_back(pool, hanging)
        assert [lane.breaker for lane in pool.stats().lanes if lane.name == "hangs"] == ["closed"]
        await pool.release(await pool.acquire(lane="hangs"))
        names = [event.name for event in events if event.name.startswith("lane_breaker")]
        assert names == ["lane_breaker_opened", "lane_breaker_closed"]

    async def test_a_lock_timeout_is_no_success(self, make_pool: MakePool, postgres: PostgresServer) -> None:
        pool = await make_pool(max_size=2, server_settings={"lock_timeout": "10"})
        locker = await asyncpg.connect(postgres.dsn())
        await locker.execute("SELECT pg_advisory_lock(815)")
        for name in "ba":  # nothing is kept of one lane alone
            async with pool.acquire(lane=name):
                pass
        lane = pool._state.lanes.known("a")
        assert lane is not None
        assert lane.credit == 2
        with pytest.raises(asyncpg.LockNotAvailableError):
            async with pool.acquire(lane="a") as lease:
                await lease.execute("SELECT pg_advisory_lock(815)")
        assert lane.credit == 0
        await locker.close()


class TestStats:
    async def test_without_lanes_there_are_none(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        async with pool.acquire():
            assert pool.stats().lanes == ()
            assert pool.leases()[0].lane is None

    async def test_the_busiest_are_told_by_name_and_the_others_together(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=15)
        leases = [await pool.acquire(lane=f"lane {number}") for number in range(15)]
        leases += []
        lanes = pool.stats().lanes
        assert len(lanes) == 11
        assert lanes[-1].name == "other"
        assert sum(lane.used for lane in lanes) == 15
        assert {lease.lane for lease in pool.leases()} == {f"lane {number}" for number in range(15)}
        await give_back(pool, leases)

    async def test_names_that_look_the_same_are_told_once(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=4)
        names: list[Any] = [None, "default", "newcomers", OutsideLane("x")]
        leases = [await pool.acquire(lane=name) for name in names]
        told = [lane.name for lane in pool.stats().lanes]
        assert len(told) == len(set(told))
        assert sum(lane.used for lane in pool.stats().lanes) == 4
        await give_back(pool, leases)
