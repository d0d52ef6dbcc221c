"""The last minutes of the pools, a sample a second: what the live page draws when it is opened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import TypedDict

from lifeguard.observability import PoolNumbers, rounded
from lifeguard.pool import HistogramSnapshot, LaneStats, PoolStats
from lifeguard.web.drain import Drain

INTERVAL = 1.0
DIGITS = 6
"""Of seconds: no clock of an event loop is finer than a microsecond."""
LENGTH = 300  # five minutes


class LaneSample(TypedDict):
    """One second of one lane."""

    name: str
    used: int
    waiting: int
    oldest_use: float
    """Seconds that its oldest lease has been held."""
    kept: int
    shed: float
    """Turned away per second."""
    breaker: str


class PoolSample(TypedDict):
    """One second of one pool. Rates are per second, waits are seconds."""

    name: str
    used: int
    idle: int
    validating: int
    returning: int
    opening: int
    closing: int
    max_size: int
    waiting: int
    borrowed: float
    wait_p50: float
    wait_p99: float
    shed: float
    timeouts: float
    breaker: str
    fault: str
    """`PoolStats.fault`; empty while nothing is known to be wrong."""
    replica: str
    """What the replica was found to be; empty while it serves, and of the primary."""
    lag: float
    """How far the replica is behind the primary; 0 where that is not known."""
    reads: float
    """Per second."""
    lanes: list[LaneSample]
    """The busiest ones, and all others as `other`; none while nobody names lanes."""
    hanging_lane: str
    """A sentence about the lane that hangs; empty while none does."""


class Sample(TypedDict):
    """One second of all pools."""

    number: int
    """One more than that of the sample before: what a reader resumes by. Clocks are set back."""
    at: float
    """Unix time, to be shown."""
    loop_lag: float
    pools: list[PoolSample]


class History:
    """Keeps the samples; the same ones for everybody who watches."""

    def __init__(self, pools: Callable[[], Iterable[PoolNumbers]], loop_lag: Callable[[], float]) -> None:
        self._pools = pools
        self._loop_lag = loop_lag
        self._samples: deque[Sample] = deque(maxlen=LENGTH)
        self._taken = 0
        self._before: dict[str, PoolStats] = {}
        self._reads_before: dict[str, int] = {}
        self._taken_at = time.monotonic()

    async def run(self, drain: Drain) -> None:
        """Take a sample every second until the service drains."""
        while True:
            self.take()
            if await drain.wait(INTERVAL):
                return

    def take(self) -> None:
        now = time.monotonic()
        seconds = max(now - self._taken_at, 0.001)
        self._taken_at = now
        pools = [self._sample(numbers, seconds) for numbers in self._pools()]
        self._taken += 1
        lag = self._loop_lag()
        sample: Sample = {"number": self._taken, "at": time.time(), "loop_lag": lag, "pools": pools}
        self._samples.append(rounded(sample, DIGITS))

    def since(self, number: int = 0) -> list[Sample]:
        """The samples taken after the one of that number."""
        return [sample for sample in self._samples if sample["number"] > number]

    def _sample(self, numbers: PoolNumbers, seconds: float) -> PoolSample:
        now, replica = numbers.stats, numbers.replica
        before = self._before.get(now.name, now)
        reads = numbers.reads - self._reads_before.get(now.name, numbers.reads)
        self._before[now.name], self._reads_before[now.name] = now, numbers.reads
        waits = [late - early for early, late in zip(before.wait.counts, now.wait.counts, strict=True)]
        return {
            "name": now.name,
            "used": now.used,
            "idle": now.idle,
            "validating": now.validating,
            "returning": now.returning,
            "opening": now.opening,
            "closing": now.closing,
            "max_size": now.max_size,
            "waiting": now.waiting,
            "borrowed": (now.borrowed - before.borrowed) / seconds,
            "wait_p50": quantile(0.5, now.wait, waits),
            "wait_p99": quantile(0.99, now.wait, waits),
            "shed": (sum(now.shed.values()) - sum(before.shed.values())) / seconds,
            "timeouts": (now.timeouts - before.timeouts) / seconds,
            "breaker": numbers.breaker.state,
            "fault": now.fault or "",
            "replica": "" if replica is None or replica.serves else replica.standing,
            "lag": (replica and replica.lag_seconds) or 0.0,
            "reads": reads / seconds,
            "lanes": [_lane(lane, now, before, seconds) for lane in now.lanes],
            "hanging_lane": numbers.hanging_lane.summary(tables=False) if numbers.hanging_lane else "",
        }


def _lane(lane: LaneStats, now: PoolStats, before: PoolStats, seconds: float) -> LaneSample:
    late, early = (sum(stats.shed_by_lane.get(lane.name, {}).values()) for stats in (now, before))
    return {
        "name": lane.name,
        "used": lane.used,
        "waiting": lane.waiting,
        "oldest_use": lane.oldest_use,
        "kept": lane.kept,
        "shed": (late - early) / seconds,
        "breaker": lane.breaker.replace("_", "-"),
    }


def quantile(q: float, histogram: HistogramSnapshot, counts: list[int]) -> float:
    """Estimate the `q` quantile of `counts` in the histogram's buckets, in seconds.

    Linear within a bucket, as Prometheus's `histogram_quantile`; above all bounds the last of them. In the
    first bucket it is that bucket's bound: nobody has measured where in it the values are, so all that can
    be said is "below".
    """
    total = sum(counts)
    if not total:
        return 0.0
    rank = q * total
    lower = 0.0
    for bound, upto, count in zip(histogram.bounds, accumulate(counts), counts, strict=False):
        if upto >= rank:
            if not lower:
                return bound
            return lower + (bound - lower) * (rank - (upto - count)) / count
        lower = bound
    return lower
