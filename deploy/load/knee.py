"""Find the knee of a service: the highest rate of requests that it serves within limits that you set.

    python -m deploy.load.knee http://127.0.0.1:8000/v1/accounts --p99 0.5

The rate grows by steps until a limit breaks, and is then narrowed down between the last good step and
the broken one. Requests leave on time whether or not earlier ones were answered (an open loop), at
random instants (Poisson arrivals), and latency counts from the instant at which a request was due. So a
service that falls behind cannot slow its clients down and look good.

Every request is the same: GET, or `--method` with `--body`. The load is real: do not aim it at what others
use. It needs the standard library only. One process can ask some thousand times a second; when it
cannot keep up it says so and ends. For more use `knee.js` with k6.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.load.asking import Asker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LATE = 0.25
"""Of the p95 limit: a broken step in which a tenth of the requests left later than that is no proof."""
TRIES = 3
"""Of such a step, before this program gives up: the machine may have been busy for a moment."""
REFINEMENTS = 3
"""Steps between the last good rate and the broken one; three tell to an eighth of their distance."""


@dataclass(frozen=True)
class Limits:
    """Latencies in seconds; `errors` is a share. An answer below 400 is no error, a timeout is one."""

    p95: float
    p99: float
    errors: float


@dataclass(frozen=True)
class Step:
    """What one rate came to; latencies in seconds, of all requests, failed ones too."""

    rate: float
    requests: int
    p50: float
    p95: float
    p99: float
    errors: float
    late_p90: float
    outcomes: dict[str, int]
    """How many of each status or exception."""

    def broken(self, limits: Limits) -> str:
        """Which limit does not hold; empty if all do."""
        broken = [
            f"{name} {measured * 1e3:.0f} ms > {limit * 1e3:.0f} ms"
            for name, measured, limit in (("p95", self.p95, limits.p95), ("p99", self.p99, limits.p99))
            if measured > limit
        ]
        if self.errors > limits.errors:
            broken.append(f"errors {self.errors:.1%} > {limits.errors:.1%}")
        return ", ".join(broken)

    def own_fault(self, limits: Limits) -> bool:
        """Whether a limit may be broken because this program was late."""
        return bool(self.broken(limits)) and self.late_p90 > limits.p95 * LATE


class Ladder:
    """Which rate comes next. Requests a second."""

    def __init__(self, start: float, factor: float, most: float) -> None:
        self._factor = factor
        self._most = most
        self._refinements = 0
        self.good: Step | None = None
        self.broken: Step | None = None
        self.next: float | None = start

    def climb(self, step: Step, limits: Limits) -> None:
        """Take note of a step; `next` is None when nothing more is to be found out."""
        if step.broken(limits):
            self.broken = step
        else:
            self.good = step
        self.next = self._choose()

    def _choose(self) -> float | None:
        if self.good is None:
            return None
        if self.broken is None:
            return min(self.good.rate * self._factor, self._most) if self.good.rate < self._most else None
        self._refinements += 1
        return (self.good.rate + self.broken.rate) / 2 if self._refinements <= REFINEMENTS else None


async def measure(asker: Asker, rate: float, seconds: float, hopeless: float) -> Step:
    """Ask at `rate` for a while, and wait for the last answer or its timeout.

    It ends early when a request leaves `hopeless` seconds late.
    """
    latencies: list[float] = []
    lateness: list[float] = []
    outcomes: Counter[str] = Counter()
    start = time.monotonic()

    async def ask(due: float) -> None:
        lateness.append(time.monotonic() - start - due)
        outcomes[await asker.ask()] += 1
        latencies.append(time.monotonic() - start - due)

    async with asyncio.TaskGroup() as clients:
        for due in _arrivals(rate, seconds):
            late = time.monotonic() - start - due
            if late > hopeless:
                break
            await asyncio.sleep(max(0.0, -late))
            clients.create_task(ask(due))
    failed = sum(count for outcome, count in outcomes.items() if not _succeeded(outcome))
    p50, p95, p99 = (_quantile(latencies, share) for share in (0.5, 0.95, 0.99))
    late_p90 = _quantile(lateness, 0.9)
    return Step(rate, len(latencies), p50, p95, p99, failed / len(latencies), late_p90, dict(outcomes))


def _succeeded(outcome: str) -> bool:
    return outcome.startswith(("2", "3"))


def _arrivals(rate: float, seconds: float) -> Iterator[float]:
    chance = random.Random(rate)  # noqa: S311 - the same arrivals in each run
    due = 0.0
    while due < seconds:
        yield due
        due += chance.expovariate(rate)


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def climb(ladder: Ladder, asker: Asker, limits: Limits, seconds: float, pause: float) -> bool:
    """Print each step; False if this program was too slow for the last one."""
    print("     rate  requests   p50 ms   p95 ms   p99 ms  errors")
    tries = 0
    rate = ladder.next
    while rate is not None:
        step = await measure(asker, rate, seconds, hopeless=limits.p95)
        print(_line(step, limits))
        tries += 1
        if not step.own_fault(limits):
            ladder.climb(step, limits)
            tries = 0
        elif tries == TRIES:
            print(f"requests left {step.late_p90 * 1e3:.0f} ms late: this program is too slow for this rate")
            return False
        rate = ladder.next
        if rate is not None and step.broken(limits):
            await asyncio.sleep(pause)
    return True


def _line(step: Step, limits: Limits) -> str:
    times = "".join(f"{seconds * 1e3:9.1f}" for seconds in (step.p50, step.p95, step.p99))
    bad = {outcome: count for outcome, count in step.outcomes.items() if not _succeeded(outcome)}
    said = f"{step.broken(limits)} {bad or ''}"
    return f"{step.rate:9.1f}{step.requests:10d}{times}{step.errors:8.1%}  {said}".rstrip()


def verdict(ladder: Ladder, limits: Limits, *, kept_up: bool) -> str:
    good, broken = ladder.good, ladder.broken
    if good is None:
        if broken is None:
            return "knee: not found"
        return (
            f"knee: below the first rate; {broken.rate:.1f}/s is too much already ({broken.broken(limits)})"
        )
    held = f"{good.rate:.1f} requests/s (p99 {good.p99 * 1e3:.0f} ms)"
    if broken is None or not kept_up:
        return f"knee: not found; {held} were served within the limits"
    return f"knee: {held}; at {broken.rate:.1f}/s {broken.broken(limits)}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find the highest rate that a service serves within limits.")
    parser.add_argument("url")
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--body", default="", help="sent with each request")
    parser.add_argument("--start", type=float, default=25, help="first rate, requests a second; 25")
    parser.add_argument("--factor", type=float, default=1.5, help="from one rate to the next; 1.5")
    parser.add_argument("--most", type=float, default=2000, help="highest rate; 2000")
    parser.add_argument("--seconds", type=float, default=10, help="for each rate; 10")
    parser.add_argument("--pause", type=float, default=2, help="seconds to recover after a broken rate; 2")
    parser.add_argument("--timeout", type=float, default=5, help="seconds; an answer later is an error; 5")
    parser.add_argument("--p95", type=float, default=0.25, help="limit in seconds; 0.25")
    parser.add_argument("--p99", type=float, default=0.5, help="limit in seconds; 0.5")
    parser.add_argument("--errors", type=float, default=0.01, help="limit as a share; 0.01")
    parser.add_argument("--at-least", type=float, default=0, help="exit code 1 if fewer a second are served")
    chosen = parser.parse_args()
    if not (chosen.start > 0 and chosen.factor > 1 and chosen.seconds > 0):
        parser.error("--start and --seconds must be above 0, --factor above 1")
    return chosen


async def main() -> int:
    chosen = _options()
    asker = Asker(chosen.method, chosen.url, chosen.header, chosen.body, chosen.timeout)
    limits = Limits(chosen.p95, chosen.p99, chosen.errors)
    ladder = Ladder(chosen.start, chosen.factor, chosen.most)
    kept_up = await climb(ladder, asker, limits, chosen.seconds, chosen.pause)
    asker.close()
    print(verdict(ladder, limits, kept_up=kept_up))
    return 0 if ladder.good and ladder.good.rate >= chosen.at_least else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except ValueError as error:
        sys.exit(str(error))
