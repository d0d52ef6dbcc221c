"""The numbers of a pool: counters and histograms kept as it works, read with no I/O."""

import asyncio
import json
from bisect import bisect_left
from collections import Counter
from dataclasses import FrozenInstanceError, asdict
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.pool.stats import BOUNDS, Histogram
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced
from packages.lifeguard.tests.pool.borrowers import borrow_all, pid_of_next
from packages.lifeguard.tests.pool.conftest import MakePool


async def test_they_say_where_every_connection_is(make_pool: MakePool, proxy: Proxy) -> None:
    pool = await make_pool(proxy.dsn, min_size=4, max_size=5, leak_threshold=0)
    first, second, third = await borrow_all(pool, 3)
    await second.execute("SET search_path = pg_catalog")
    proxy.silence()
    proxy.hold_new = True
    await pool.release(second)
    await pool.resize(min_size=5)
    await eventually(lambda: pool.stats().opening == 1)
    stats = pool.stats()
    assert (stats.size, stats.idle, stats.used, stats.returning) == (4, 1, 2, 1)
    assert (stats.min_size, stats.max_size) == (pool.get_min_size(), pool.get_max_size()) == (5, 5)
    assert stats.utilisation == 2 / 5
    assert_balanced(stats)
    proxy.resume()
    for lease in (first, third):
        await pool.release(lease)


async def test_they_are_a_snapshot(make_pool: MakePool) -> None:
    pool = await make_pool()
    stats = pool.stats()
    await pid_of_next(pool)
    assert stats.borrowed == 0
    with pytest.raises(FrozenInstanceError):
        stats.borrowed = 1  # type: ignore[misc]  # that is the point


async def test_they_are_plain_numbers_and_words(make_pool: MakePool) -> None:
    pool = await make_pool()
    await pid_of_next(pool)
    assert json.loads(json.dumps(asdict(pool.stats())))["borrowed"] == 1


async def test_every_borrow_is_in_the_histogram_of_waits(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1)
    async with pool.acquire():
        waiters = [asyncio.create_task(pid_of_next(pool)) for _ in range(3)]
        await eventually(lambda: pool.stats().waiting == 3)
        oldest = pool.stats().oldest_wait
        assert 0 < oldest < 5
        await eventually(lambda: pool.stats().oldest_wait > oldest)
        waited = pool.stats().oldest_wait
    await asyncio.gather(*waiters)
    stats = pool.stats()
    assert stats.oldest_wait == 0
    assert stats.borrowed == stats.wait.count == sum(stats.wait.counts) == 4
    assert stats.use.count == 4
    assert waited <= stats.wait.sum < 3 * 5
    assert stats.use.sum >= waited


async def test_the_queue_stands_since_nobody_waited_however_short_each_wait_is(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1)
    holder = await pool.acquire()
    next_one = asyncio.ensure_future(pool.acquire())
    for _ in range(3):
        one_more = asyncio.ensure_future(pool.acquire())
        await eventually(lambda: pool.stats().waiting == 2)
        await pool.release(holder)
        holder, next_one = await next_one, one_more
        stats = pool.stats()
        assert stats.standing_queue > stats.oldest_wait > 0
    await pool.release(holder)
    holder = await next_one
    assert pool.stats().standing_queue == 0
    next_one = asyncio.ensure_future(pool.acquire())
    await eventually(lambda: pool.stats().waiting)
    stats = pool.stats()
    assert stats.standing_queue == stats.oldest_wait
    await pool.release(holder)
    await pool.release(await next_one)


async def test_the_time_that_opening_takes_is_known(make_pool: MakePool, proxy: Proxy) -> None:
    proxy.latency = 0.02
    pool = await make_pool(proxy.dsn)
    create = pool.stats().create
    assert create.count == pool.stats().opened == 1
    assert create.sum >= 4 * proxy.latency  # two round trips at the least


async def test_the_reuse_rate_is_the_share_of_borrows_without_a_new_connection(make_pool: MakePool) -> None:
    pool = await make_pool()
    assert pool.stats().reuse_rate == 0
    for _ in range(4):
        await pid_of_next(pool)
    assert pool.stats().reuse_rate == 0.75


async def test_the_summary_names_the_trouble(make_pool: MakePool, proxy: Proxy) -> None:
    pool = await make_pool(proxy.dsn, max_size=2)
    assert pool.stats().summary() == "0 of 2 in use, 1 idle, 0 waiting"
    proxy.refuse_new = True
    async with pool.acquire():
        waiter = asyncio.create_task(pid_of_next(pool))
        await eventually(lambda: pool.stats().open_failures)
        assert "1 waiting" in pool.stats().summary()
        assert "last attempt to connect failed: " in pool.stats().summary()
    await waiter


def test_a_bucket_counts_up_to_its_bound() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] * 2):
        histogram.observe(seconds)
    snapshot = histogram.snapshot()
    assert snapshot.bounds == BOUNDS
    assert snapshot.counts == (2, 1, *[0] * (len(BOUNDS) - 3), 1, 1)
    assert snapshot.count == 5
    assert len(snapshot.counts) == len(snapshot.bounds) + 1


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(BOUNDS))), st.integers(1, 5))
def test_sorted_in_a_few_at_a_time_they_are_the_same(durations: list[float], most: int) -> None:
    histogram = Histogram()
    for seconds in durations:
        histogram.observe(seconds)
    while folded := histogram.fold(most):
        assert folded <= most
        assert histogram.count == len(durations)
    snapshot = histogram.snapshot()
    expected = Counter(bisect_left(BOUNDS, seconds) for seconds in durations)
    assert snapshot.counts == tuple(expected[bucket] for bucket in range(len(BOUNDS) + 1))
    assert snapshot.sum == pytest.approx(sum(durations))


async def test_a_busy_second_is_not_sorted_in_at_once(make_pool: MakePool) -> None:
    pool = await make_pool(health_check_interval=0.1)  # looked after a few times a second
    waiting = pool._state.tally.wait._fresh
    waiting.extend([0.001] * 5000)
    left = [len(waiting)]

    def nothing_left() -> bool:
        left.append(len(waiting))
        return not waiting

    await eventually(nothing_left, interval=0)
    assert max(before - after for before, after in pairwise(left)) <= 1000
