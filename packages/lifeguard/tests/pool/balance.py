"""What holds for the numbers of every pool, whatever has happened to it."""

from lifeguard.pool import Pool, PoolStats
from lifeguard.pool.lanes import Lanes


def assert_balanced(stats: PoolStats) -> None:
    """Each connection that was opened has one status, or was closed once."""
    assert stats.size == stats.idle + stats.used + stats.returning + stats.validating
    assert stats.opened == stats.size + sum(stats.closed.values())
    assert min(stats.idle, stats.used, stats.opening, stats.closing, stats.waiting) >= 0


def at_rest(stats: PoolStats) -> bool:
    """Nobody holds or waits for a connection, and the pool itself has nothing under way."""
    return not (
        stats.used or stats.waiting or stats.opening or stats.closing or stats.returning or stats.validating
    )


def nothing_left(stats: PoolStats) -> bool:
    return at_rest(stats) and not stats.size


def counts_of(lanes: Lanes) -> tuple[int, ...]:
    """What is counted step by step."""
    shares = lanes.shares
    return shares.free, shares.owed_full, shares.owed_mean, shares.owed_floor, shares.small_held


def assert_counted_right(pool: Pool) -> None:
    """Each lane holds what its leases say, and counting all anew gives the same."""
    lanes = pool._state.lanes
    held: dict[str | None, int] = {}
    for lease in pool.leases():
        held[lease.lane] = held.get(lease.lane, 0) + 1
    if pool._state.has_lanes:
        assert {lane.label: lane.in_use for lane in lanes if lane.in_use} == held
        before = counts_of(lanes)
        lanes._divide()
        assert counts_of(lanes) == before
