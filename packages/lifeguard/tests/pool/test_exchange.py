"""A hand-over in one step comes to what giving back, finding the next and taking come to."""

import asyncio
from random import Random
from typing import Any, cast

import pytest
from lifeguard.pool.lane import NORMAL, Lane, Limits
from lifeguard.pool.lanes import Lanes
from lifeguard.pool.queue import Total, WaitQueue
from lifeguard.pool.stats import Histogram

from packages.lifeguard.tests.pool.balance import counts_of
from packages.lifeguard.tests.pool.lanes_simulation import Held

SIZE = 8


class World:
    """Lanes of a pool, with or without hand-overs in one step."""

    def __init__(self, *, in_one_step: bool) -> None:
        self.in_one_step = in_one_step
        self.steps = 0
        """Hand-overs in one step."""
        self.held: dict[Held, None] = {}
        self.lanes = Lanes(SIZE, 0.25, total := Total(), self._make_queue, self.held)
        self.total = total

    def _make_queue(self, _lane: Lane, _rank: int) -> WaitQueue:
        queue = WaitQueue(
            0.0, Histogram(), time_out=lambda _: ValueError(), turn_away=ValueError, total=self.total
        )
        queue.create_future = asyncio.get_running_loop().create_future
        return queue

    def come(self, name: str, now: float) -> None:
        lane = self.lanes.find(name, now)
        if len(self.held) < SIZE and self.lanes.may_take_now(lane, NORMAL):
            self._lend(lane, now)
        else:
            lane.queue(NORMAL).join(now, 1000)
            self.lanes.joined(lane, NORMAL)

    def _lend(self, lane: Lane, now: float) -> None:
        lease = Held(now)
        self.held[lease] = None
        self.lanes.take(lane, lease)

    def give_back(self, number: int, now: float, *, succeeded: bool) -> None:
        """The one that was lent so long ago; those that are free go to whoever may have them."""
        lease = list(self.held)[number]
        lease.failed = not succeeded
        queue = self.lanes.exchange(lease, now) if self.in_one_step else None
        del self.held[lease]
        if queue is not None:
            self.steps += 1
            lease.borrowed_at = now
            self.held[lease] = None
            assert queue.hand_out(cast("Any", lease), now)
        else:
            self.lanes.give_back(lease, now, succeeded=succeeded)
        self.serve(now)

    def serve(self, now: float) -> None:
        while len(self.held) < SIZE and (turn := self.lanes.next_turn()) is not None:
            lane, _ = turn
            assert lane.queue(NORMAL).hand_out(cast("Any", None), now)
            self._lend(lane, now)

    def shape(self) -> list[tuple[object, float]]:
        return [(lease.lane.name if lease.lane else None, lease.borrowed_at) for lease in self.held]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_and_goes_the_same_lanes_get_the_same(seed: int) -> None:
    dice = Random(seed)
    worlds = [World(in_one_step=True), World(in_one_step=False)]
    names = [str(number) for number in range(dice.choice([2, 4, 12, 30]))]
    weights = {name: dice.choice([0.5, 1, 1, 3]) if seed % 2 else 1 for name in names}
    busy = dice.choice([1, 4, 20])  # times as busy as the others are the first two
    load = dice.uniform(0.45, 0.55)
    now = 100.0
    if seed % 2:
        for world in worlds:
            for name in names:
                world.lanes.limit(name, Limits(weight=weights[name]), now)
    for _ in range(1500):
        now += dice.expovariate(1 / 0.002)
        number, name = dice.randrange(SIZE), dice.choice([*names[:2] * busy, *names])
        comes, succeeded = dice.random() < load, dice.random() < 0.98
        for world in worlds:
            if comes:
                world.come(name, now)
            elif world.held:
                world.give_back(number % len(world.held), now, succeeded=succeeded)
            if now >= world.lanes.tick_at:
                world.lanes.tick(now)
                world.serve(now)
        one, other = worlds
        assert one.shape() == other.shape()
        assert counts_of(one.lanes) == counts_of(other.lanes)
        assert one.total.waiting == other.total.waiting
    assert worlds[0].steps
