"""What many lanes, many names and silence must not do."""

import asyncio
import contextlib
import gc
from time import monotonic

import pytest
from lifeguard.pool import OutsideLane, PoolUnavailable
from lifeguard.pool.lane import Lane
from lifeguard.pool.lanes import Lanes
from lifeguard.pool.newcomers import MOST_HEAVY, MOST_KNOWN, MOST_LANES
from lifeguard.pool.queue import Total, WaitQueue
from lifeguard.pool.stats import Histogram
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_counted_right
from packages.lifeguard.tests.pool.conftest import MakePool
from packages.lifeguard.tests.pool.lanes_simulation import Held


def make_lanes(size: int) -> tuple[Lanes, set[Held]]:
    held: set[Held] = set()
    total = Total()

    def make_queue(lane: Lane, rank: int) -> WaitQueue:
        return WaitQueue(
            0.25, Histogram(), time_out=lambda _: ValueError(), turn_away=ValueError, total=total
        )

    return Lanes(size, 0.25, total, make_queue, held), held


async def test_one_waiter_in_each_of_many_lanes_is_bounded_by_the_pool_s_queue(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1, max_waiting=100)
    held = await pool.acquire(lane="a")
    tasks = [asyncio.create_task(pool.acquire(lane=number).__aenter__()) for number in range(100)]
    await eventually(lambda: pool.stats().waiting == 100)
    for number in range(100, 4_000):
        assert pool.try_shed(lane=number) is not None
    assert pool.stats().waiting == 100
    assert len([lane for lane in pool._state.lanes if lane.filed]) == 100
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await pool.release(held)


def test_however_many_names_are_invented_a_bounded_number_is_remembered() -> None:
    lanes, _ = make_lanes(10)

    def come(names: range) -> None:
        for number in names:
            name, now = OutsideLane(str(number)), number / 1000
            lane = lanes.find(name, now)
            lease = Held(now)
            lanes.take(lane, lease)
            lanes.give_back(lease, now, succeeded=True)
            lanes.served(name, now)
            if now >= lanes.tick_at:
                lanes.tick(now)

    come(range(10_000))
    gc.collect()
    before = len(gc.get_objects())
    come(range(10_000, 100_000))
    gc.collect()
    assert len(gc.get_objects()) <= before + 100
    assert len(lanes) <= 1 + MOST_HEAVY
    assert len(lanes.newcomers) <= 2 * MOST_KNOWN + 100


async def test_however_many_names_the_program_has_a_bounded_number_has_lanes(make_pool: MakePool) -> None:
    pool = await make_pool(min_size=1)
    pool.set_lane("limited", at_most=1)
    for number in range(MOST_LANES + 100):
        async with pool.acquire(lane=number):
            pass
    lanes = pool._state.lanes
    assert len(lanes) == MOST_LANES + 1
    async with pool.acquire(lane="late"), pool.acquire(lane="limited"):
        assert [lease.lane for lease in pool.leases()] == ["others", "limited"]


class Moody:
    """A name that is not what a dictionary expects of one."""

    def __init__(self, fails: str) -> None:
        self.fails = fails
        self.asked = 0

    def __hash__(self) -> int:
        self.asked += 1
        if self.fails == "hash":
            raise RuntimeError("no hash")
        return self.asked if self.fails == "hash changes" else 1

    def __eq__(self, _: object) -> bool:
        if self.fails == "eq":
            raise RuntimeError("not comparable")
        return False

    def __str__(self) -> str:
        if self.fails == "str":
            raise RuntimeError("no text")
        return "name " * 1_000_000


@pytest.mark.parametrize("fails", ["hash", "hash changes", "eq", "str", "nothing"])
async def test_a_name_that_cannot_be_a_name_is_its_borrower_s_trouble_alone(
    make_pool: MakePool, fails: str
) -> None:
    pool = await make_pool(min_size=1, max_size=3)
    async with pool.acquire(lane="other"):
        for _ in range(2):
            with contextlib.suppress(RuntimeError):
                async with pool.acquire(lane=Moody(fails)):
                    assert all(len(lane.name) < 1000 for lane in pool.stats().lanes)
    lanes = pool._state.lanes
    for later in (10, 20):
        lanes.tick(monotonic() + later)  # forget them
    for lane in ("other", None):
        async with pool.acquire(lane=lane):
            pass
    assert pool.stats().used == 0
    assert_counted_right(pool)


async def test_many_waiters_are_refused_with_the_numbers_of_one_moment(make_pool: MakePool) -> None:
    """Gathered for each, they would keep the event loop for long."""
    pool = await make_pool(max_size=1)
    held = await pool.acquire(lane="held")
    waiters = [asyncio.create_task(pool.acquire(lane=number).__aenter__()) for number in range(500)]
    await eventually(lambda: pool.stats().waiting == 500)
    assert pool.refuse_waiting() == 500
    errors = await asyncio.gather(*waiters, return_exceptions=True)
    assert {type(error) for error in errors} == {PoolUnavailable}
    assert len({id(error.stats) for error in errors if isinstance(error, PoolUnavailable)}) == 1
    await pool.release(held)


class TestTheBreakerOfALane:
    def test_does_not_open_after_the_process_was_stopped(self) -> None:
        lanes, held = make_lanes(1)
        lease = Held(0.0)
        held.add(lease)
        lane = lanes.find("a", 0.0)
        lanes.take(lane, lease)
        lanes.tick(0.0)
        lane.breaker.refused()
        assert lanes.tick(6.0) == []  # by whoever is first: a timer, a newcomer, a return
        times = [6.0 + 0.1 * number for number in range(1, 20)]
        hung_at = next(time for time in times if lanes.tick(time) == [lane])
        assert hung_at == pytest.approx(7.1)  # it has had its second since
