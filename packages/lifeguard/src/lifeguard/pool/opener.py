"""When to open a connection: few at once, later after every failure. Decisions; the attempt is a task."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from functools import partial
from time import monotonic
from weakref import WeakSet

import asyncpg

from lifeguard.pool.closer import Closer
from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.connector import Connector
from lifeguard.pool.events import Level, Reporter
from lifeguard.pool.faults import fault_of, finds_standby, is_same, stays
from lifeguard.pool.poolers import Pooler
from lifeguard.pool.state import Phase, PoolState
from lifeguard.pool.tasks import OpenConnection, Tasks

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
# Where a server answers that takes no writes, a failover may be under way, however long it takes: the new
# primary is to be found within half a second, and to ask costs the standby one session of a few milliseconds.
HIGHEST_CEILING_WITH_A_STANDBY = 0.4
# What only an operator can mend is tried more rarely: half of its age so far, up to 8 s. A password
# that is rotated within seconds is found within seconds all the same.
SHARE_OF_PERMANENT = 1 / 2
HIGHEST_PERMANENT_CEILING = 8.0


# Attempts a second at a server that is away, of all processes together, where many are known of. A delay of
# up to 2 * processes / this is processes / this on average; a thousand spread over three seconds from the
# first failure on, and are all back three seconds after the server (bench/fleet).
PEERS_ATTEMPTS_A_SECOND = 700.0
WIDEST_SPREAD = 4.0


def ceiling_of(
    failures: int, seconds: float, *, permanent: bool, standby: bool = False, peers: int = 1
) -> float:
    """The longest delay, in seconds, after so many failures before this one and so long an outage, of one of
    so many processes."""
    share, highest = (
        (SHARE_OF_PERMANENT, HIGHEST_PERMANENT_CEILING) if permanent else (SHARE_OF_OUTAGE, HIGHEST_CEILING)
    )
    highest = HIGHEST_CEILING_WITH_A_STANDBY if standby and not permanent else highest
    longest = min(max(SHORT_OUTAGE_CEILING, seconds * share), highest)
    spread = min(2 * peers / PEERS_ATTEMPTS_A_SECOND, WIDEST_SPREAD)
    return max(min(FIRST_CEILING * 2.0 ** min(failures, 30), longest), spread)


class Opener:
    """Keeps as many attempts under way as the pool wants, within bounds.

    It starts with one attempt at a time and doubles with each success. Where other processes come back as
    well, it begins with one again once a connection was lost. After a failure it waits, and then tries with
    one again: borrowers never try themselves. When that succeeds, or an existing connection shows that the
    server is there again, the waiting is over.
    """

    def __init__(
        self,
        state: PoolState,
        connector: Connector,
        tasks: Tasks,
        closer: Closer,
        report: Reporter,
        *,
        when_opened: Callable[[PooledConnection, float], None],
    ) -> None:
        """`when_opened` gets each new connection, and the time."""
        self._state = state
        self._connector = connector
        self._tasks = tasks
        self._closer = closer
        self._report = report
        self._when_opened = when_opened
        self._at_once = 1
        self._succeeded_at = 0.0
        self._failures = 0
        self._failing_since = 0.0
        self._stays = False
        self._retry: asyncio.TimerHandle | None = None
        self._pooler_told: Pooler | None = None
        self._outdated: WeakSet[object] = WeakSet()
        """Attempts that began before the last `start_over()`."""
        self.peers = 1
        """Processes with a pool on the same server, this one included."""
        self.stopped = False

    @property
    def failing(self) -> bool:
        """The last attempt failed and none has succeeded since."""
        return self._failures > 0

    @property
    def is_hopeless(self) -> bool:
        """There is no connection, and who waits for one is refused: the outage is long, or stays, or none
        may be opened."""
        if self._state.held and not self._state.members:
            return True
        return self.failing and not (self._state.members or self.waits_out_outage)

    @property
    def waits_out_outage(self) -> bool:
        """There has been a connection, there is none, and that is neither long ago nor for a reason that
        stays."""
        if self._state.members or self.blocked:
            return False
        return self._state.outage.is_waited_out(monotonic())

    @property
    def blocked(self) -> bool:
        """Failing for a reason that does not pass by itself."""
        return self.failing and self._stays

    # -- when to try -------------------------------------------------------------------------------

    def pump(self) -> None:
        """Start what is wanted, unless backing off."""
        opening = self._state.opening
        if self.peers > 1 and self._state.suspect_since > self._succeeded_at:
            self._at_once = 1  # a connection was lost: one attempt shows whether the server is there
        while (
            not self.stopped and self._retry is None and len(opening) < self._at_once and self._wanted() > 0
        ):
            attempt = OpenConnection(self._connector, self)
            opening[attempt] = self._tasks.start(attempt)

    def _wanted(self) -> int:
        """How many more connections to open now."""
        state = self._state
        if state.phase in {Phase.NEW, Phase.CLOSED} or state.held is not None:
            return 0
        coming = len(state.opening)
        waiting = state.wanting - len(state.checking) - coming
        missing = max(state.config.min_size, state.first_size) if state.phase is Phase.OPEN else 0
        if self.failing:
            missing = max(missing, 1)  # to find out when the server is back
        if state.read_only_since is not None and state.phase is Phase.OPEN:
            missing = max(missing, len(state.members) + 1)
        missing -= len(state.members) + coming
        return min(max(waiting, missing), state.config.max_size - state.sessions)

    def hasten(self) -> None:
        """The server may be back: try soon, as early in an outage. Spread over a quarter of a second, because
        the other replicas try too, and no sooner again if it is not back."""
        if self._retry is None or self._state.retry_in(monotonic()) <= SHORT_OUTAGE_CEILING:
            return
        self._retry.cancel()
        self._wait(random.uniform(0, SHORT_OUTAGE_CEILING))  # noqa: S311 - jitter, not a secret

    def start_over(self) -> None:
        """Connections are made with other arguments from now on: try at once, and back off as at the start.
        A failure of an attempt under way says nothing of the new arguments."""
        self._outdated |= self._state.opening.keys()
        if self._failures:
            self._failures = 1
            self._failing_since = monotonic()
        self._stop_waiting()
        self.pump()

    def stop(self) -> None:
        """Break off what is under way and begin nothing more."""
        self.stopped = True
        for attempt in self._state.opening.values():
            attempt.cancel()
        self._state.opening.clear()
        self._state.outage.stop()
        self._stop_waiting()

    def _wait(self, delay: float) -> None:
        self._state.retry_at = monotonic() + delay
        self._retry = asyncio.get_running_loop().call_later(delay, self._try_again, context=Context())

    def _try_again(self) -> None:
        self._stop_waiting()
        self.pump()

    def _stop_waiting(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._retry = None
        self._state.retry_at = 0.0

    # -- an attempt has ended ----------------------------------------------------------------------

    def succeeded(self, attempt: OpenConnection, connection: asyncpg.Connection, seconds: float) -> None:
        self._state.opening.pop(attempt, None)
        self._failures = 0
        self._succeeded_at = monotonic()
        self._at_once = min(self._at_once * 2, MOST_AT_ONCE)
        self._take_in(connection, seconds)
        self.pump()

    def failed(self, attempt: OpenConnection, error: Exception) -> None:
        self._state.opening.pop(attempt, None)
        if attempt not in self._outdated:
            self._fail(error, attempt.began_at)
        self.pump()

    def broken_off(self, attempt: OpenConnection) -> None:
        if self._state.opening.pop(attempt, None) is None:
            return
        error = asyncpg.InterfaceError("the attempt to connect was cancelled from within")
        self._fail(error, attempt.began_at)
        self.pump()

    def is_urgent(self, attempt: OpenConnection) -> bool:
        """Whether nothing is served, or no write, that has been: the oldest attempt may be made twice."""
        state = self._state
        lacks = not state.members or state.read_only_since is not None
        return lacks and state.tally.opened > 0 and next(iter(state.opening), None) is attempt

    def _take_in(self, connection: asyncpg.Connection, seconds: float) -> None:
        state = self._state
        state.tally.opened += 1
        state.tally.create.observe(seconds)
        state.last_error = None
        if state.read_only_since is not None:  # this one was asked, and takes writes
            state.read_only_since = None
            self._closer.expire("read_only")
        now = monotonic()
        pooled = PooledConnection(connection, now, now + self._closer.lifetime(), state.generation)
        state.members.add(pooled)
        if len(state.members) >= state.first_size:
            state.first_size = 0
        connection.add_termination_listener(partial(self._closer.lost, pooled))
        self._report("debug", "connection_opened", about=pooled, seconds=seconds)
        if (away := state.outage.over()) is not None:
            self._report("info", "outage_over", seconds=away, waiting=state.total.waiting)
        self._tell_of_pooler()
        if self._closer.surplus():  # the maximum was higher when the attempt began
            pooled.retire("resized")
        self._when_opened(pooled, now)

    def _tell_of_pooler(self) -> None:
        """Say once what is in between, and again when that has changed."""
        pooler = self._connector.pooler
        if pooler is None or pooler == self._pooler_told:
            return
        self._pooler_told = pooler
        level: Level = "info" if pooler.keeps_statements and not pooler.lacks else "warning"
        self._report(level, "pooler_found", product=pooler.product, reason=str(pooler))

    def _fail(self, error: Exception, began_at: float) -> None:
        self._back_off(error)
        state = self._state
        state.tally.open_failures += 1
        before, state.last_error = state.last_error, error
        if not state.members:
            state.outage.failed(error, began_at)
        elif fault_of(error).absent:
            state.outage.looms()
        self._tell(error, before)
        if self.is_hopeless:
            # No connection is left that could serve them, and the next attempt may fail as well.
            state.refuse_all(state.unavailable)
        self._closer.note_progress()

    def _tell(self, error: Exception, before: Exception | None) -> None:
        """Report it. An outage is one piece of news, not one every attempt."""
        fault = fault_of(error)
        blocked = stays(error) and (before is None or fault_of(before) is not fault)
        level: Level = "debug" if blocked or is_same(error, before) else "warning"
        hosts = ",".join(f"{host}:{port}" for host, port in self._connector.hosts)
        name, retry_in = fault.name, self._state.retry_in(monotonic())
        self._report(level, "open_failed", error=error, host=hosts, fault=name, retry_in=retry_in)
        if blocked:
            advice = fault.advice
            self._report(
                "error", "open_blocked", error=error, host=hosts, fault=name, retry_in=retry_in, advice=advice
            )

    def _back_off(self, error: Exception) -> None:
        if self._retry is not None or self.stopped:
            return
        now = monotonic()
        permanent = stays(error)
        if not self._failures or permanent != self._stays:
            self._failing_since = now
        self._stays = permanent
        ceiling = ceiling_of(
            self._failures,
            now - self._failing_since,
            permanent=permanent,
            standby=finds_standby(error),
            peers=self.peers,
        )
        self._failures += 1
        self._at_once = 1
        self._wait(random.uniform(0, ceiling))  # noqa: S311 - jitter, not a secret
