"""Opening connections in the background: few at once, slower after every failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from time import monotonic
from typing import Any
from weakref import WeakSet

import asyncpg

from app.pool.connect import Connector
from app.pool.faults import stays
from app.pool.jobs import Jobs

# PostgreSQL forks and authenticates for every session: a handful at once warms a pool in tens of
# milliseconds, twenty at once from every replica is the thundering herd after a restart.
MOST_AT_ONCE = 4
# Seconds. Full jitter (Brooker, "Exponential backoff and jitter", AWS 2015): each delay is drawn from
# zero to a ceiling that doubles, so replicas spread out.
FIRST_CEILING = 0.05
# The highest ceiling bounds how late a pool notices that its server is back, so it grows with the outage:
# one of T seconds is made longer by T/20 or 0.25 s at most, whichever is more. 12 s away cost 0.6 s more.
# From 40 s on the ceiling is 2 s, which is a second on average: a thousand replicas then make a thousand
# attempts a second at a server that comes up, an eighth of what 0.25 s would make, and find it within 2 s.
SHORT_OUTAGE_CEILING = 0.25
SHARE_OF_OUTAGE = 1 / 20
HIGHEST_CEILING = 2.0
# What nobody but an operator can mend is asked for more rarely: half of its age so far, up to 8 s. A password
# that is rotated within seconds is taken up within seconds all the same.
SHARE_OF_PERMANENT = 1 / 2
HIGHEST_PERMANENT_CEILING = 8.0


def ceiling_of(failures: int, seconds: float, *, permanent: bool) -> float:
    """The longest delay, in seconds, after so many failures before this one and so long an outage."""
    share, highest = (
        (SHARE_OF_PERMANENT, HIGHEST_PERMANENT_CEILING) if permanent else (SHARE_OF_OUTAGE, HIGHEST_CEILING)
    )
    longest = min(max(SHORT_OUTAGE_CEILING, seconds * share), highest)
    return min(FIRST_CEILING * 2.0 ** min(failures, 30), longest)


class Opener:
    """Keeps as many attempts under way as the pool wants and prudence allows.

    It starts with one attempt at a time and doubles with each success. After a failure it waits, and
    then tries with one again: that attempt is the probe that spares the borrowers. When it succeeds, or an
    existing connection shows that the server is there again, the waiting is over.
    """

    def __init__(
        self,
        connector: Connector,
        jobs: Jobs,
        *,
        wanted: Callable[[], int],
        opened: Callable[[asyncpg.Connection, float], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`wanted` says how many more to open; `opened` gets each with the seconds that it took."""
        self._connector = connector
        self._jobs = jobs
        self._wanted = wanted
        self._opened = opened
        self._failed = failed
        self._at_once = 1
        self._failures = 0
        self._failing_since = 0.0
        self._stays = False
        self._retry: asyncio.TimerHandle | None = None
        self._retry_at = 0.0
        self._attempts: set[asyncio.Task[Any]] = set()
        self._outdated: WeakSet[asyncio.Task[Any]] = WeakSet()
        """Attempts that began before the last `start_over()`."""
        self.stopped = False

    @property
    def under_way(self) -> int:
        """Attempts that have not ended yet."""
        return len(self._attempts)

    @property
    def failing(self) -> bool:
        """The last attempt failed and none has succeeded since."""
        return self._failures > 0

    @property
    def blocked(self) -> bool:
        """Failing for a reason that stays until somebody acts."""
        return self.failing and self._stays

    def retry_in(self, now: float) -> float:
        """Seconds until the next attempt; 0 when it is under way or due."""
        return max(0.0, self._retry_at - now) if self._retry else 0.0

    def pump(self) -> None:
        """Start what is wanted, unless backing off."""
        while (
            not self.stopped and self._retry is None and self.under_way < self._at_once and self._wanted() > 0
        ):
            self._begin()

    def _begin(self) -> None:
        def broken_off() -> None:
            if attempt not in self._attempts:
                return
            self._attempts.discard(attempt)
            self._fail(asyncpg.InterfaceError("the attempt to connect was cancelled from within"))
            self.pump()

        attempt = self._jobs.start(self._attempt(), "open", broken_off)
        self._attempts.add(attempt)

    def hasten(self) -> None:
        """There is reason to hope: try soon, as early in an outage. Spread over a quarter of a second, for
        the other replicas hope too; and not sooner than that again, should the hope be false."""
        if self._retry is None or self.retry_in(monotonic()) <= SHORT_OUTAGE_CEILING:
            return
        self._retry.cancel()
        self._wait(random.uniform(0, SHORT_OUTAGE_CEILING))  # noqa: S311 - jitter, not a secret

    def start_over(self) -> None:
        """Connections are made in another way from now on: try at once, and be as patient as at the start.
        An attempt under way, should it fail, says nothing of the new way."""
        self._outdated |= self._attempts
        if self._failures:
            self._failures = 1
            self._failing_since = monotonic()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self.pump()

    def stop(self) -> None:
        """Break off what is under way and begin nothing more."""
        self.stopped = True
        for attempt in self._attempts:
            attempt.cancel()
        self._attempts.clear()
        if self._retry:
            self._retry.cancel()
            self._retry = None

    async def _attempt(self) -> None:
        started = monotonic()
        this = asyncio.current_task()
        assert this is not None
        try:
            connection = await self._connector.connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must learn of it
            self._attempts.discard(this)
            if this not in self._outdated:
                self._fail(error)
        else:
            self._attempts.discard(this)
            self._failures = 0
            self._at_once = min(self._at_once * 2, MOST_AT_ONCE)
            self._opened(connection, monotonic() - started)
        self.pump()

    def _fail(self, error: Exception) -> None:
        self._back_off(error)
        self._failed(error)

    def _back_off(self, error: Exception) -> None:
        if self._retry is not None or self.stopped:
            return
        now = monotonic()
        permanent = stays(error)
        if not self._failures or permanent != self._stays:
            self._failing_since = now
        self._stays = permanent
        ceiling = ceiling_of(self._failures, now - self._failing_since, permanent=permanent)
        self._failures += 1
        self._at_once = 1
        self._wait(random.uniform(0, ceiling))  # noqa: S311 - jitter, not a secret

    def _wait(self, delay: float) -> None:
        self._retry_at = monotonic() + delay
        self._retry = asyncio.get_running_loop().call_later(delay, self._try_again, context=Context())

    def _try_again(self) -> None:
        self._retry = None
        self.pump()
