"""A pool and the circuit breaker in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from contextvars import Context
from types import TracebackType

import asyncpg

from lifeguard.database.breaker import Breaker, BreakerState
from lifeguard.database.errors import OVERSTAYED, SESSION_ENDED, DatabaseUnavailable, SchemaChanged
from lifeguard.database.fault_advice import with_advice
from lifeguard.database.fleet_watch import Fleet
from lifeguard.database.lane_watch import LaneWatch
from lifeguard.database.scope import current_caller
from lifeguard.pool import (
    NO_ANSWER,
    Lease,
    Pool,
    PoolError,
    PoolEvent,
    PoolTimeout,
    Priority,
    StatementNotSent,
    says_schema_changed,
)
from lifeguard.settings import Settings

PoolMaker = Callable[[Callable[[PoolEvent], None]], Pool]


class Guard:
    """Lends the pool's connections while its breaker allows, and tells the breaker how that went."""

    def __init__(
        self,
        make_pool: PoolMaker,
        settings: Settings,
        on_event: Callable[[PoolEvent], None] | None,
    ) -> None:
        """`make_pool` gets what the pool is to call with its events; `on_event` hears of them too."""
        self._on_event = on_event
        self._settings = settings
        self._acquire_timeout = settings.pool_acquire_timeout
        self.pool = make_pool(self._hear)
        self.breaker = Breaker(
            self.pool.name,
            fail_max=settings.breaker_fail_max,
            reset_timeout=settings.breaker_reset_timeout,
            probe=self._probe,
            ask_aside=self.pool.ask_aside,
            on_open=self.pool.refuse_waiting,
            patience=self.pool.outage_patience,
            waits_out=lambda: self.pool.waits_out_outage,
        )
        self.lane_watch = LaneWatch(self.pool, self.breaker)
        self.fleet = Fleet(self.pool, settings) if settings.pool_instances == "auto" else None
        """What finds the other processes that share the server, with POOL_INSTANCES=auto."""
        self._waking: asyncio.Task[None] | None = None

    @property
    def serves(self) -> bool:
        """Whether there is a connection and no reason to doubt it."""
        return self.breaker.state is BreakerState.CLOSED and self.pool.get_size() > 0

    @property
    def sleeps(self) -> bool:
        """Whether there is no connection because none was needed (POOL_MIN_SIZE=0)."""
        pool = self.pool
        nothing_kept = pool.get_min_size() == 0 == pool.get_size() and not pool.is_held
        return nothing_kept and self.breaker.state is BreakerState.CLOSED and pool.stats().last_error is None

    def may_shed(self, lane: Hashable | None) -> bool:  # noqa: ARG002 - a replica looks at it
        """Whether a request of the lane may be turned away for its queue's sake before it has asked for a
        connection."""
        return True

    def wake(self) -> None:
        """Have a pool that keeps no connections, and has none, open one in the background."""
        if self.pool.get_min_size() == 0 == self.pool.get_size() and self._waking is None:
            self._waking = asyncio.create_task(
                self._open_one(), name=f"wake {self.pool.name}", context=Context()
            )

    def lend(
        self, timeout: float | None, lane: Hashable | None = None, priority: Priority = "normal"
    ) -> Lent:
        """A lease for the block; the arguments as in `Pool.acquire()`.

        Raises DatabaseUnavailable while the breaker is not closed and when the session is lost in the
        block, SchemaChanged, and the pool's errors.

        The breaker is charged with what happened here and nowhere else: errors of this pool, and the end
        of this very session. An error that another database raised inside the block is not charged.
        """
        return Lent(self, timeout, lane, priority)

    def note_failed_borrowing(self, ticket: int, error: Exception, timeout: float | None, heard: int) -> None:
        """Tell the breaker why there was no connection."""
        if not isinstance(error, PoolTimeout):
            self.breaker.failed(ticket, error)
        elif timeout is None or timeout >= self._acquire_timeout:
            self.breaker.stalled(ticket, error, heard)  # a shorter wait was the caller's haste

    def note_failed_block(self, ticket: int, error: Exception, lease: Lease) -> None:
        """Tell the breaker what an error in the block says of the database. Raises the error that says it
        more clearly, if there is one."""
        if lease.is_closed() and _ends_with_the_session(error):
            raise self._lost(ticket, error) from error
        if says_schema_changed(error):
            raise SchemaChanged(f"the schema changed under the work: {error}") from error
        if isinstance(error, asyncpg.PostgresError) and not lease.is_closed():
            self.breaker.succeeded(ticket)  # it has said no, so it is there

    def _lost(self, ticket: int, error: Exception) -> DatabaseUnavailable:
        """The lease's session has ended; what it tells of the database."""
        reason = _last_words(error)
        if _was_waited_on(error):
            self.breaker.failed(ticket, reason)
        repeatable = not isinstance(reason, OVERSTAYED)
        return DatabaseUnavailable(f"the connection was lost: {reason}", repeatable=repeatable)

    async def stop(self) -> None:
        if self.fleet is not None:
            await self.fleet.stop()
        await self.lane_watch.stop()
        await self.breaker.stop()
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.wait({self._waking})

    async def _open_one(self) -> None:
        try:
            await self.pool.wait_ready(self._acquire_timeout)
        except PoolError:
            pass  # the pool's events say why, and the next borrower asks again
        finally:
            self._waking = None

    async def _probe(self) -> None:
        """Ask over the pool, or beside it while all of its connections are in use, which says nothing."""
        if self.pool.get_idle_size() == 0 and self.pool.get_size() >= self.pool.get_max_size():
            await self.pool.ask_aside()
            return
        async with self.pool.acquire(lane="breaker", priority="critical") as lease:
            await lease.execute("SELECT 1")

    def _hear(self, event: PoolEvent) -> None:
        if self._on_event is not None:
            self._on_event(with_advice(event, self._settings))
        if event.name == "connection_opened" and self.fleet is not None:
            self.fleet.connection_opened()
        if event.name == "open_failed" and event.stats.size == 0 and not self.pool.waits_out_outage:
            self.breaker.cannot_connect(is_silent=event.details.get("fault") == NO_ANSWER)
        elif event.name == "lane_breaker_opened":
            self.breaker.suspect()  # a lock, or the database: who asks finds out
        elif event.name == "connection_opened" and self.breaker.state is BreakerState.OPEN:
            self.breaker.look_now()


class Lent:
    """One loan of a guard's. Not a generator: with the layers around it, those cost a request more than its
    connection did."""

    __slots__ = ("_guard", "_lane", "_lease", "_priority", "_ticket", "_timeout")

    _lease: Lease

    def __init__(
        self, guard: Guard, timeout: float | None, lane: Hashable | None, priority: Priority
    ) -> None:
        self._guard = guard
        self._timeout = timeout
        self._lane = lane
        self._priority = priority
        self._ticket = 0

    async def __aenter__(self) -> Lease:
        guard, timeout = self._guard, self._timeout
        self._ticket = ticket = guard.breaker.admit()
        heard = guard.breaker.heard
        try:
            self._lease = lease = await guard.pool.acquire(
                timeout=timeout, caller=current_caller(), lane=self._lane, priority=self._priority
            )
        except Exception as error:
            guard.note_failed_borrowing(ticket, error, timeout, heard)
            raise
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._guard.breaker.succeeded(self._ticket)
            elif isinstance(error, Exception):
                self._guard.note_failed_block(self._ticket, error, self._lease)
        finally:
            self._lease.end()


def _ends_with_the_session(error: Exception) -> bool:
    """Whether the error is that of a call on a session that has ended. A call that waited for an answer gets
    one of SESSION_ENDED; a later one only learns that the connection is closed."""
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return not isinstance(error, PoolError)
    return isinstance(error, SESSION_ENDED)


def _was_waited_on(error: Exception) -> bool:
    """Whether a call waited for an answer when the session ended, so that its error says why.

    A session that ended between two statements may have been ended for idling. If the database is gone,
    the pool finds out when it opens the next one.
    """
    return not isinstance(error, (asyncpg.InterfaceError, StatementNotSent))


def _last_words(error: Exception) -> Exception:
    """What the server said when it ended the session: to asyncpg that is the cause of a lost connection."""
    cause = error.__cause__
    return cause if isinstance(cause, asyncpg.PostgresError) else error
