"""What many lanes, many names and silence must not do."""

import asyncio
import gc

from lifeguard.pool import OutsideLane
from lifeguard.pool.lane import Lane
from lifeguard.pool.lanes import Lanes
from lifeguard.pool.newcomers import MOST_HEAVY, MOST_KNOWN
from lifeguard.pool.queue import Total, WaitQueue
from lifeguard.pool.stats import Histogram
from lifeguard.testing.waiting import eventually

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
    assert len(lanes._newcomers) <= 2 * MOST_KNOWN + 100


class TestTheBreakerOfALane:
    def test_does_not_open_after_the_process_was_stopped(self) -> None:
        lanes, held = make_lanes(1)
        lease = Held(0.0)
        held.add(lease)
        lane = lanes.find("a", 0.0)
        lanes.take(lane, lease)
        lanes.tick(0.0)
        lane.breaker.refused()
        lanes.note_stop(6.0, 6.0)
        assert lanes.tick(6.0) == []
        assert lanes.tick(6.9) == []
        assert lanes.tick(7.1) == [lane]  # it has had its second since
