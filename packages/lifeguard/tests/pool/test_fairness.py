"""First come, first served; every wait ends in time; who cannot be served in time is told at once."""

import asyncio
import random
from time import monotonic
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifeguard.pool import PoolSaturated, PoolTimeout
from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.queue import STALE_AFTER_TARGETS, Waiter
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest
from packages.lifeguard.tests.pool.borrowers import borrow_all, link_of
from packages.lifeguard.tests.pool.conftest import MakePool
from packages.lifeguard.tests.pool.queues import TimedOut, TurnedAway, connection, in_a_loop, make_queue

LATE = 0.25  # seconds that a wait may outlast its deadline

TARGET, HOLD = 0.05, 0.01  # seconds


class TestOnTheServer:
    @pytest.mark.parametrize("seed", range(3))
    async def test_waiters_are_served_in_order_of_arrival(self, make_pool: MakePool, seed: int) -> None:
        dice = random.Random(seed)
        pool = await make_pool(max_size=4, queue_target=0)
        arrived: list[int] = []
        served: list[int] = []

        async def borrower(number: int) -> None:
            arrived.append(number)
            async with pool.acquire() as lease:
                served.append(number)
                await lease.execute(f"SELECT pg_sleep({dice.random() / 500})")

        tasks = []
        for number in range(200):
            tasks.append(asyncio.create_task(borrower(number)))
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
        for task in dice.sample(tasks, 50):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == sorted(served)
        assert arrived == sorted(arrived)
        assert len(served) >= 150
        await eventually(lambda: at_rest(pool.stats()))

    async def test_a_newcomer_does_not_pass_a_waiter_that_was_served_but_has_not_run_yet(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(max_size=1)
        order: list[str] = []

        async def borrower(name: str) -> None:
            async with pool.acquire():
                order.append(name)

        lease = await pool.acquire()
        waiter = asyncio.create_task(borrower("waiter"))
        await eventually(lambda: pool.stats().waiting == 1)
        await pool.release(lease)
        await borrower("newcomer")  # runs on at once, before the waiter's task does
        await waiter
        assert order == ["waiter", "newcomer"]

    async def test_a_newcomer_does_not_pass_a_waiter_whose_connection_is_being_checked(
        self, make_pool: MakePool, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=3, max_size=3)
        suspect, fresh, doomed = await borrow_all(pool, 3)
        (await link_of(suspect, proxy)).silence()
        proxy.hold_new = True
        await postgres.kill(doomed.get_server_pid())
        await eventually(lambda: pool.stats().closed == {"lost": 1})
        await pool.release(fresh)
        await pool.release(await pool.acquire())  # now it has been heard of since
        await pool.release(suspect)
        order: list[str] = []

        async def borrower(name: str) -> None:
            async with pool.acquire():
                order.append(name)
                await asyncio.sleep(0)

        waiter = asyncio.create_task(borrower("waiter"))
        await asyncio.sleep(0)
        assert pool.stats().validating == 1
        assert pool.get_idle_size() == 1
        await asyncio.gather(waiter, borrower("newcomer"))
        assert order == ["waiter", "newcomer"]
        await pool.release(doomed)
        proxy.resume()

    async def test_a_greedy_task_does_not_starve_the_others(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        turns: list[str] = []

        async def borrower(name: str, times: int) -> None:
            for _ in range(times):
                async with pool.acquire():
                    turns.append(name)
                    await asyncio.sleep(0)

        await asyncio.gather(borrower("greedy", 20), borrower("other", 20))
        assert turns.count("greedy") == turns.count("other") == 20
        longest = max(len(list(group)) for group in runs(turns))
        assert longest <= 2

    async def test_every_wait_ends_by_its_deadline(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, queue_target=0)
        dice = random.Random(1)
        lateness: list[float] = []
        lateness_of_timers: list[float] = []

        async def borrower(budget: float) -> None:
            asked_at = monotonic()
            with pytest.raises(PoolTimeout):
                await pool.acquire(timeout=budget)
            lateness.append(monotonic() - asked_at - budget)

        async def sleeper(budget: float) -> None:
            asked_at = monotonic()
            await asyncio.sleep(budget)
            lateness_of_timers.append(monotonic() - asked_at - budget)

        async with pool.acquire():
            budgets = [dice.uniform(0.01, 0.3) for _ in range(300)]
            await asyncio.gather(*map(borrower, budgets), *map(sleeper, budgets))
        assert min(lateness) > -0.01
        assert max(lateness) < LATE + max(lateness_of_timers)  # on a busy machine all timers are late
        assert pool.stats().timeouts == 300
        assert pool.get_idle_size() == 1

    async def test_a_wait_in_which_nobody_got_anything_is_called_stalled(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        lease = await pool.acquire()
        with pytest.raises(PoolTimeout) as stalled:
            await pool.acquire(timeout=0.02)
        assert stalled.value.stalled

        async def hold() -> None:
            async with pool.acquire():
                await asyncio.Event().wait()

        first = asyncio.create_task(hold())
        second = asyncio.create_task(outcome(pool.acquire(timeout=0.05)))
        await asyncio.sleep(0)
        assert pool.stats().waiting == 2
        await pool.release(lease)
        timed_out = await second
        assert isinstance(timed_out, PoolTimeout)
        assert not timed_out.stalled
        first.cancel()
        await asyncio.wait([first])

    async def test_the_excess_of_an_overload_is_turned_away_and_the_rest_served_in_time(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool(min_size=2, max_size=2, queue_target=TARGET, acquire_timeout=60)
        passed: list[int] = []
        """By how many others each of those that were served."""
        shed: list[PoolSaturated] = []

        async def request() -> None:
            before = len(passed)
            try:
                async with pool.acquire() as lease:
                    passed.append(len(passed) - before)
                    await lease.execute(f"SELECT pg_sleep({HOLD})")
            except PoolSaturated as error:
                shed.append(error)

        tasks: list[asyncio.Task[None]] = []
        started = monotonic()
        while monotonic() - started < 0.8:  # about ten times what the two connections can do
            tasks += [asyncio.create_task(request()) for _ in range(10)]
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
        assert len(passed) > 40
        assert len(shed) > len(passed)
        # So many are served, at most, before a waiter is stale.
        assert sorted(passed)[len(passed) * 95 // 100] <= 2 / HOLD * (TARGET * STALE_AFTER_TARGETS + 0.05)
        assert "queue_target" in {error.reason for error in shed} <= {"queue_target", "stale"}
        assert pool.stats().timeouts == 0
        assert sum(pool.stats().shed.values()) == len(shed)
        assert all(0 <= error.retry_after < 5 for error in shed)

    async def test_a_burst_that_can_be_served_in_time_is_not_shed(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=4, max_size=4)
        await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(500)))
        assert pool.stats().shed == {}

    @pytest.mark.parametrize("lane", [None, "same"])
    async def test_a_burst_that_nobody_comes_after_is_served_whole(
        self, make_pool: MakePool, lane: str | None
    ) -> None:
        pool = await make_pool(min_size=5, max_size=5, queue_target=0.1)
        held = [await pool.acquire(lane=lane) for _ in range(5)]

        async def request() -> None:
            async with pool.acquire(lane=lane):
                pass

        requests = [asyncio.create_task(request()) for _ in range(15)]
        await eventually(lambda: pool.stats().oldest_wait > 0.1 * STALE_AFTER_TARGETS)
        for lease in held:
            await pool.release(lease)
        await asyncio.gather(*requests)
        assert pool.stats().shed == {}

    async def test_try_shed_tells_beforehand_and_counts(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, max_waiting=1)
        assert pool.try_shed() is None
        async with pool.acquire():
            waiter = asyncio.create_task(outcome(pool.acquire(timeout=0.2)))
            await asyncio.sleep(0)
            assert pool.stats().waiting == 1
            retry_after = pool.try_shed()
            assert retry_after is not None
            assert retry_after >= 0
            assert pool.stats().shed == {"queue_full": 1}
            await waiter


async def outcome(awaitable: Any) -> object:
    """What it gives or raises; a lease is dropped again."""
    try:
        return await awaitable
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error


def runs(turns: list[str]) -> list[list[str]]:
    """Turns of the same name in a row, together."""
    grouped: list[list[str]] = []
    for turn in turns:
        if not grouped or grouped[-1][0] != turn:
            grouped.append([])
        grouped[-1].append(turn)
    return grouped


# -- the queue alone ---------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.one_of(
        st.just("join"),
        st.just("hand_out"),
        st.just("refuse_all"),
        st.tuples(st.sampled_from(["cancel", "leave"]), st.integers(0, 20)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(ACTIONS)
def test_whatever_happens_the_longest_waiting_is_next_and_no_connection_is_lost(actions: list[Any]) -> None:
    in_a_loop(play(actions))


async def play(actions: list[Any]) -> None:
    """Do these things to a queue and to a model of it, which is a plain list."""
    queue = make_queue()
    waiting: list[Waiter] = []
    cancelled: list[Waiter] = []  # by their tasks, which have not run since
    holding: dict[Waiter, PooledConnection] = {}
    now = monotonic()
    for action in actions:
        now += 0.001
        match action:
            case "join":
                waiting.append(queue.join(now, budget=1000))
            case "hand_out":
                pooled = connection()
                assert queue.hand_out(pooled, now) is bool(waiting)
                if waiting:
                    served = waiting.pop(0)
                    assert served.result() is pooled
                    holding[served] = pooled
            case "refuse_all":
                assert queue.refuse_all(TurnedAway) == len(waiting)
                assert all(isinstance(waiter.exception(), TurnedAway) for waiter in waiting)
                waiting.clear()
            case "cancel", index if waiting:
                gone = waiting.pop(index % len(waiting))
                gone.cancel()
                cancelled.append(gone)
            case "leave", index if waiting or cancelled or holding:
                everybody = [*waiting, *cancelled, *holding]
                gone = everybody[index % len(everybody)]
                assert queue.leave(gone) is holding.pop(gone, None)
                waiting = [waiter for waiter in waiting if waiter is not gone]
                cancelled = [waiter for waiter in cancelled if waiter is not gone]
        assert queue.length == len(waiting) + len(cancelled)
        if not waiting:
            assert queue.oldest_wait(now) == 0
    while waiting:
        assert queue.hand_out(connection(), now)
        assert waiting.pop(0).done()


async def test_entries_of_waiters_that_left_are_cleared_away() -> None:
    queue = make_queue()
    staying = queue.join(monotonic(), 1000)
    for _ in range(10_000):
        queue.leave(queue.join(monotonic(), 1000))
    assert len(queue._entries) < 500
    assert queue.hand_out(connection(), monotonic())
    assert staying.done()


async def test_so_are_those_of_waiters_whose_budget_was_used_up() -> None:
    queue = make_queue()
    queue.join(monotonic(), 1000)
    for _ in range(20):
        hopeless = [queue.join(monotonic(), 0.001) for _ in range(50)]
        await asyncio.wait(hopeless)
        assert all(isinstance(waiter.exception(), TimedOut) for waiter in hopeless)
    assert queue.length == 1
    assert len(queue._entries) < 500


async def test_a_deadline_of_one_who_has_left_disturbs_nobody() -> None:
    queue = make_queue()
    staying, leaving = queue.join(monotonic(), 0.05), queue.join(monotonic(), 0.01)
    leaving.cancel()
    await asyncio.wait([staying])
    assert isinstance(staying.exception(), TimedOut)
    queue.leave(leaving)
    assert queue.length == 0


async def test_a_newcomer_who_would_wait_longer_than_his_budget_is_told_so() -> None:
    queue = make_queue(target=1.0)
    now = monotonic()
    for _ in range(20):
        queue.join(now, 1000)
    for _ in range(10):
        now += 0.05
        queue.hand_out(connection(), now)
    assert queue.expected_wait(now, serving=1) == pytest.approx(0.5, rel=0.05)
    assert queue.expected_wait(now, serving=1, ahead=10) == pytest.approx(1.0, rel=0.05)
    assert queue.objection(now, 1, 0.4, 1000) == "deadline"
    assert queue.objection(now, 1, 0.6, 1000) is None


async def test_a_newcomer_who_would_wait_longer_than_the_target_is_told_so() -> None:
    queue = make_queue(target=0.1)
    now = monotonic()
    for _ in range(20):
        queue.join(now, 1000)
    queue.hand_out(connection(), now + 0.05)
    assert queue.objection(now + 0.05, 1, 1000, 1000) == "queue_target"
    assert queue.objection(now + 0.05, 20, 1000, 1000) is None  # 20 may have been served by then


async def test_a_full_queue_objects_and_an_empty_one_never_does() -> None:
    queue = make_queue(target=0.1)
    now = monotonic()
    assert queue.objection(now, 1, 1000, longest=1) is None
    queue.join(now, 1000)
    assert queue.objection(now, 1, 1000, longest=1) == "queue_full"


async def test_who_waits_alone_is_never_stale() -> None:
    queue = make_queue(target=0.1)
    alone = queue.join(monotonic(), 1000)
    assert queue.hand_out(connection(), monotonic() + 100)
    assert alone.exception() is None


async def test_who_is_stale_makes_room_for_the_fresher_one() -> None:
    queue = make_queue(target=0.1)
    now = monotonic()
    stale, fresh = queue.join(now, 1000), queue.join(now + 0.2, 1000)
    assert queue.hand_out(connection(), now + 0.21)
    assert isinstance(stale.exception(), TurnedAway)
    assert fresh.exception() is None
