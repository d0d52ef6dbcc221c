"""What holds for the numbers of every pool, whatever has happened to it."""

from lifeguard.pool import PoolStats


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
