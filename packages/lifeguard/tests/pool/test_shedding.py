"""An overload, simulated: who is served is served in time, and no capacity is lost."""

import random
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from time import monotonic

from hypothesis import given, settings
from hypothesis import strategies as st
from lifeguard.pool.queue import STALE_AFTER_TARGETS, Waiter

from packages.lifeguard.tests.pool.queues import connection, in_a_loop, make_queue

CONNECTIONS = st.integers(2, 30)


@dataclass
class Simulation:
    """Borrowers who come at random to `serving` connections; time passes only here.

    `load` is the work that arrives, as a multiple of what the connections can do.
    """

    serving: int
    load: float
    service: float
    target: float
    dice: random.Random
    seconds: float = 3.0
    served: int = 0
    shed: int = 0
    arrived: int = 0
    longest_wait: float = 0.0
    """Of those who had as many behind them as there are connections."""
    shortest_refused: float = float("inf")
    """The shortest wait that a newcomer was spared."""

    def wait_behind(self, others: int) -> float:
        """What is to be expected when one knows how fast connections come back."""
        return (others + 1) * self.service / self.serving

    async def run(self) -> None:
        queue = make_queue(self.target, serving=self.serving)
        start = now = monotonic()
        free = self.serving
        returns: list[float] = []
        joined: deque[tuple[Waiter, float]] = deque()
        arrival = now
        while now - start < self.seconds:
            if returns and returns[0] <= arrival:
                now = heappop(returns)
                if queue.hand_out(connection(), now):
                    self.collect(joined, now, last=queue.length < self.serving)
                    heappush(returns, now + self.duration())
                else:
                    free += 1
                continue
            now = arrival
            arrival = now + self.dice.expovariate(self.load * self.serving / self.service)
            self.arrived += 1
            if free:
                free -= 1
                heappush(returns, now + self.duration())
                self.served += 1
            elif now > queue.calm_until and queue.objection(now, self.serving, 1000, 1000) is not None:
                self.shed += 1
                self.shortest_refused = min(self.shortest_refused, self.wait_behind(queue.length))
            else:
                joined.append((queue.join(now, 1000), now))

    def duration(self) -> float:
        return self.dice.uniform(0.5, 1.5) * self.service

    def collect(self, joined: deque[tuple[Waiter, float]], now: float, *, last: bool) -> None:
        """Note who was served and who was turned away in this hand-out."""
        while joined and joined[0][0].done():
            waiter, joined_at = joined.popleft()
            if waiter.exception() is not None:
                self.shed += 1
                continue
            self.served += 1
            if not last:
                self.longest_wait = max(self.longest_wait, now - joined_at)


def simulations(
    load: st.SearchStrategy[float], serving: st.SearchStrategy[int] = CONNECTIONS
) -> st.SearchStrategy[Simulation]:
    return st.builds(
        Simulation,
        serving=serving,
        load=load,
        service=st.floats(0.01, 0.1),
        target=st.just(0.25),
        dice=st.builds(random.Random, st.integers(0, 2**32)),
    )


@settings(deadline=None, max_examples=25)
@given(simulations(load=st.floats(1.5, 20)))
def test_in_an_overload_those_served_are_served_in_time_and_no_capacity_is_lost(
    simulation: Simulation,
) -> None:
    in_a_loop(simulation.run())
    assert simulation.longest_wait <= simulation.target * STALE_AFTER_TARGETS
    capacity = simulation.serving / simulation.service * simulation.seconds
    assert simulation.served >= 0.9 * capacity - simulation.serving
    assert simulation.shed > 0


@settings(deadline=None, max_examples=25)
@given(simulations(load=st.floats(0.1, 3)))
def test_nobody_is_turned_away_who_would_not_have_waited_long(simulation: Simulation) -> None:
    in_a_loop(simulation.run())
    assert simulation.shortest_refused > 0.75 * simulation.target


@settings(deadline=None, max_examples=25)
@given(simulations(load=st.floats(0.1, 0.6), serving=st.integers(10, 30)))
def test_below_its_capacity_a_pool_turns_nobody_away(simulation: Simulation) -> None:
    in_a_loop(simulation.run())
    assert simulation.shed == 0


@dataclass
class Crowd:
    """Borrowers that come in bursts to connections that come back in bursts."""

    serving: int
    bursts: list[tuple[float, int]]
    """After how many seconds how many come, or how many connections come back if it is below 0."""

    async def play(self) -> None:
        queue = make_queue(0.25, serving=self.serving)
        now = monotonic()
        in_use = self.serving
        waiting: list[Waiter] = []
        for pause, number in self.bursts:
            now += pause
            for _ in range(number):
                if in_use < self.serving:
                    in_use += 1
                elif queue.objection(now, self.serving, 1000, 1000) is None:
                    waiting.append(queue.join(now, 1000))
            back = min(-number, in_use)
            idle = sum(not queue.hand_out(connection(), now) for _ in range(back))
            refused = [waiter for waiter in waiting if waiter.done() and waiter.exception() is not None]
            assert not (refused and idle)
            in_use -= max(idle, 0)
            waiting = [waiter for waiter in waiting if not waiter.done()]
            if number < 0:
                assert queue.length == len(waiting)


@settings(deadline=None, max_examples=200)
@given(
    st.builds(
        Crowd,
        serving=st.integers(1, 8),
        bursts=st.lists(st.tuples(st.sampled_from([0, 0.1, 0.3, 0.6, 2]), st.integers(-8, 20))),
    )
)
def test_nobody_is_turned_away_while_a_connection_of_that_moment_goes_unused(crowd: Crowd) -> None:
    in_a_loop(crowd.play())


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 10), st.integers(1, 200), st.floats(0.001, 2))
def test_a_burst_that_nobody_comes_after_is_served_whole(serving: int, number: int, service: float) -> None:
    async def play() -> None:
        queue = make_queue(0.25, serving=serving)
        start = monotonic()
        waiters = [queue.join(start, 1000) for _ in range(number)]
        for turn in range(-(-number // serving)):
            for _ in range(serving):
                queue.hand_out(connection(), start + service * (turn + 1))
        assert [waiter.exception() for waiter in waiters] == [None] * number

    in_a_loop(play())


def test_a_queue_that_all_have_left_in_vain_does_not_let_as_many_in_again() -> None:
    """Else those of a low priority wait in waves, each until its clients have gone."""

    async def come_and_go() -> None:
        queue = make_queue(0.25)
        now = monotonic()
        queue.leave(queue.join(now - 0.9, 5))
        assert queue.objection(now, 1, 5, 100) is None  # somebody has to find out whether it flows again
        waiter = queue.join(now, 5)
        assert queue.objection(now, 1, 5, 100) == "queue_target"
        assert queue.hand_out(connection(), now)
        assert waiter.done()
        queue.join(now, 5)
        assert queue.objection(now, 1, 5, 100) is None

    in_a_loop(come_and_go())
