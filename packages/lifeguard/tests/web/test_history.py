"""The samples behind the live page."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.observability import BreakerNumbers, PoolNumbers, ReplicaNumbers
from lifeguard.operations.history import LENGTH, History, quantile
from lifeguard.pool import HistogramSnapshot, Pool, PoolStats
from lifeguard.pool.stats import BOUNDS, Histogram

STATS = Pool(max_size=7).stats()


def history_of(*stats: PoolStats) -> History:
    """A history that has taken one sample of each."""
    moments = iter(stats)
    history = History(lambda: [PoolNumbers(next(moments), BreakerNumbers())], lambda: 0.0)
    for _ in stats:
        history.take()
    return history


def test_a_rate_is_what_came_since_the_sample_before() -> None:
    first, second = history_of(
        replace(STATS, borrowed=100, shed={"queue": 1}),
        replace(STATS, borrowed=150, shed={"queue": 3, "x": 2}),
    ).since()
    assert first["pools"][0]["borrowed"] == 0  # before it nobody looked
    assert second["pools"][0]["borrowed"] > 0
    assert second["pools"][0]["borrowed"] == pytest.approx(12.5 * second["pools"][0]["shed"])


def test_a_wait_is_of_this_second_only() -> None:
    slow, fast = Histogram(), Histogram()
    for histogram in (slow, fast):
        histogram.observe(3.0)
    fast.observe(0.0004)
    before, after = replace(STATS, wait=slow.snapshot()), replace(STATS, wait=fast.snapshot())
    latest = history_of(before, after).since()[-1]["pools"][0]
    assert latest["wait_p99"] == BOUNDS[0]


def test_only_the_last_minutes_are_kept() -> None:
    history = history_of(*[STATS] * (LENGTH + 20))
    samples = history.since()
    assert len(samples) == LENGTH
    assert history.since(samples[-2]["number"]) == samples[-1:]


@pytest.mark.parametrize(
    ("replica", "shown"),
    [
        (None, ("", 0)),
        (ReplicaNumbers(serves=True, standing="current", lag_seconds=0.5), ("", 0.5)),
        (ReplicaNumbers(serves=False, standing="silent"), ("silent", 0)),
    ],
)
def test_why_a_replica_is_not_read_is_shown(replica: ReplicaNumbers | None, shown: tuple[str, float]) -> None:
    history = History(lambda: [PoolNumbers(STATS, BreakerNumbers(), 0, replica)], lambda: 0.0)
    history.take()
    (pool,) = history.since()[0]["pools"]
    assert (pool["replica"], pool["lag"]) == shown


@given(st.lists(st.floats(0, 10), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_in_the_bucket_of_the_value_at_its_rank(values: list[float], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    snapshot = histogram.snapshot()
    estimate = quantile(q, snapshot, list(snapshot.counts))
    rank = q * len(values)
    exact = next(value for number, value in enumerate(sorted(values), 1) if number >= rank)
    upper = next(bound for bound in BOUNDS if exact <= bound)
    lower = max((bound for bound in BOUNDS if bound < exact), default=0.0)
    assert lower <= estimate <= upper


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert quantile(0.5, HistogramSnapshot((1.0,), (0, 0), 0.0, 0), [0, 0]) == 0


def test_a_quantile_above_all_bounds_is_the_last_bound() -> None:
    assert quantile(0.5, HistogramSnapshot((1.0, 2.0), (0, 0, 3), 90.0, 3), [0, 0, 3]) == 2.0
