"""The pool as its users see it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator, Hashable
from contextvars import Context
from dataclasses import fields, replace
from time import monotonic
from typing import Any, Self

import asyncpg

from lifeguard.pool.callsite import Caller
from lifeguard.pool.config import Hook, PgBouncerMode, PoolConfig, ResetPolicy, check_count, check_seconds
from lifeguard.pool.connector import Connector
from lifeguard.pool.errors import PoolUnavailable
from lifeguard.pool.events import DrainReport, Listener, log_event
from lifeguard.pool.housekeeping import Housekeeping
from lifeguard.pool.lane import NORMAL, Limits
from lifeguard.pool.lease import Lease, LeaseOfOwnClass
from lifeguard.pool.lending import Lending
from lifeguard.pool.names import Priority, rank_of
from lifeguard.pool.query_methods import QueryMethods
from lifeguard.pool.shared import Shared
from lifeguard.pool.sharing import Sharing
from lifeguard.pool.snapshots import Snapshots
from lifeguard.pool.state import Phase
from lifeguard.pool.tasks import CLOSE_BOUND

# Seconds that `close()` waits for borrowers: as long as asyncpg.Pool waits before it warns.
CLOSE_PATIENCE = 60.0
_closing_dropped: set[asyncio.Task[None]] = set()
"""Dropped pools that are being closed."""


def _lease_for(connect_options: dict[str, Any]) -> type[Lease]:
    own = connect_options.get("connection_class", asyncpg.Connection) is not asyncpg.Connection
    return LeaseOfOwnClass if own else Lease


class Pool(QueryMethods, Snapshots, Sharing):
    """A pool of asyncpg connections: fair, bounded in size and in every wait; it recovers by itself.

    pool = Pool(dsn, max_size=20)                 # settings: PoolConfig; the rest: asyncpg.connect()
    await pool.open()                             # or: async with Pool(dsn) as pool
    async with pool.acquire() as connection: ...  # or: await pool.acquire(), await pool.release(c)
    await pool.fetch("SELECT ...")                # as on asyncpg.Pool
    await pool.drain(20)                          # refuse newcomers, wait for the rest, close

    Borrowing raises PoolTimeout, PoolSaturated, PoolUnavailable or PoolClosing, all PoolError.
    Belongs to the event loop that opened it. Raises ValueError for a setting out of its range, TypeError for
    one that neither the pool nor asyncpg knows.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        min_size: int = PoolConfig.min_size,
        max_size: int = PoolConfig.max_size,
        init_size: int | None = PoolConfig.init_size,
        acquire_timeout: float = PoolConfig.acquire_timeout,
        max_waiting: int = PoolConfig.max_waiting,
        queue_target: float = PoolConfig.queue_target,
        outage_patience: float = PoolConfig.outage_patience,
        connect_timeout: float = PoolConfig.connect_timeout,
        keepalive: int = PoolConfig.keepalive,
        idle_timeout: float = PoolConfig.idle_timeout,
        max_lifetime: float = PoolConfig.max_lifetime,
        health_check_interval: float = PoolConfig.health_check_interval,
        validate_after: float = PoolConfig.validate_after,
        leak_threshold: float = PoolConfig.leak_threshold,
        pgbouncer: PgBouncerMode = PoolConfig.pgbouncer,
        reset: ResetPolicy | Hook | None = PoolConfig.reset,
        init: Hook | None = PoolConfig.init,
        setup: Hook | None = PoolConfig.setup,
        name: str = PoolConfig.name,
        on_event: Listener | None = None,
        **connect_options: Any,  # asyncpg.connect() checks them
    ) -> None:
        given = locals()
        settings = {setting.name: given[setting.name] for setting in fields(PoolConfig)}
        timeout = connect_options.pop("timeout", None)  # as asyncpg.connect() calls it
        if timeout is not None:
            settings["connect_timeout"] = timeout
        if reset is None:  # as asyncpg.Pool has it
            settings["reset"] = PoolConfig.reset
        self._build(PoolConfig(**settings), dsn, on_event, connect_options)

    @classmethod
    def from_config(
        cls,
        config: PoolConfig,
        dsn: str | None = None,
        *,
        on_event: Listener | None = None,
        **connect_options: Any,
    ) -> Self:
        """A pool whose settings were put together elsewhere. Raises as the constructor does."""
        self = cls.__new__(cls)
        self._build(config, dsn, on_event, connect_options)
        return self

    def _build(
        self, config: PoolConfig, dsn: str | None, on_event: Listener | None, connect_options: dict[str, Any]
    ) -> None:
        chosen: dict[str, Any] = {"keepalive": config.keepalive, "pgbouncer": config.pgbouncer}
        connector = Connector(dsn, config.connect_timeout, config.init, connect_options, **chosen)
        self._lending = Lending(config, connector, on_event or log_event)
        self._state = self._lending.state
        self._lease: type[Lease] = _lease_for(connect_options)
        self._housekeeping = Housekeeping(self._lending)
        self._aside = Shared(connector.ask_aside, f"pool {config.name}: ask aside")

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start opening the minimum in the background; returns at once, also when no server answers.

        Raises asyncpg.InterfaceError when the pool has been closed. Opening twice does nothing.
        """
        state = self._state
        if state.phase is Phase.OPEN:
            return
        if state.phase is not Phase.NEW:
            raise asyncpg.InterfaceError("a closed pool cannot be opened again; make a new one")
        state.bind(asyncio.get_running_loop())
        state.first_size = state.config.first_size
        state.phase = Phase.OPEN
        self._housekeeping.start()
        self._lending.pump()

    async def wait_ready(self, timeout: float) -> None:
        """Wait for the first connection; raises PoolUnavailable or PoolTimeout after `timeout` seconds."""
        check_seconds("timeout", timeout)
        deadline = monotonic() + timeout
        while True:
            try:
                async with self.acquire(timeout=max(deadline - monotonic(), 0)):
                    return
            except PoolUnavailable as error:
                if monotonic() + error.retry_after >= deadline:
                    raise
                await asyncio.sleep(max(error.retry_after, 0.01))

    async def drain(self, timeout: float) -> DrainReport:
        """Refuse new borrowers, serve the queue, wait for leases, close. Cuts off what needs longer than
        `timeout` seconds, and says what that was."""
        check_seconds("timeout", timeout)
        started = monotonic()
        state = self._state
        if state.loop not in {None, asyncio.get_running_loop()}:
            return self._end_from_elsewhere()
        if state.phase in {Phase.NEW, Phase.OPEN}:
            state.phase = Phase.DRAINING
            state.lanes.stop_keeping()
            self._lending.pump()
            self._lending.closer.note_progress()
        try:
            async with asyncio.timeout(timeout):
                await state.settled.wait()
        except TimeoutError:
            pass
        except BaseException:  # a caller that stops waiting for the end wants it now, as with asyncpg.Pool
            self.terminate()
            raise
        cut_off = self.leases()
        refused = self._end()
        await self._lending.tasks.finish(CLOSE_BOUND)
        report = DrainReport(monotonic() - started, cut_off, refused)
        self._lending.report(
            "warning" if cut_off or refused else "info",
            "pool_drained",
            seconds=report.seconds,
            cut_off=[lease.borrowed_at for lease in cut_off],
            backend_pids=[lease.backend_pid for lease in cut_off],
            refused=refused,
        )
        return report

    def _end_from_elsewhere(self) -> DrainReport:
        """On another event loop than its own nothing can be waited for."""
        state = self._state
        if state.loop is not None and state.loop.is_running():
            raise asyncpg.InterfaceError("the pool belongs to another event loop, which runs: end it there")
        cut_off = self.leases()
        self.terminate()
        return DrainReport(0.0, cut_off, 0)

    async def close(self) -> None:
        """`drain()` with a minute's patience; does nothing on a closed pool."""
        if self._state.phase is not Phase.CLOSED:
            await self.drain(CLOSE_PATIENCE)

    def terminate(self) -> None:
        """Cut every connection now; waiters get PoolClosing. Works without a running loop, too."""
        self._end()
        state = self._state
        if state.loop is not None and not state.loop.is_closed():
            state.loop.call_soon(self._lending.tasks.cancel)  # once they have noticed by themselves

    def _end(self) -> int:
        state = self._state
        state.phase = Phase.CLOSED
        self._housekeeping.stop()
        self._lending.opener.stop()
        self._lending.lanes.stop()
        refused = state.refuse_all(state.refusing)
        self._lending.closer.cut_off()
        state.settled.set()
        return refused

    def __del__(self) -> None:
        lending = getattr(self, "_lending", None)  # which a wrong argument may have prevented
        if lending is None or lending.state.phase is not Phase.OPEN:
            return
        message = f"the pool {self.name!r} was dropped without being closed"
        warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
        loop = lending.state.loop
        if loop is not None and not loop.is_closed():
            # Not in the context of whatever the collector has interrupted.
            loop.call_soon_threadsafe(self._close_dropped, lending, self._housekeeping, context=Context())

    @classmethod
    def _close_dropped(cls, lending: Lending, housekeeping: Housekeeping) -> None:
        """Close what is left of a pool that was garbage-collected; its leases may still be in use."""
        if lending.state.phase is not Phase.OPEN:
            return
        self = cls.__new__(cls)
        self._lending, self._state, self._housekeeping = lending, lending.state, housekeeping
        self._state.phase = Phase.DRAINING  # or this one would be dropped unclosed as well
        lending.closer.note_progress()
        task = asyncio.get_running_loop().create_task(self.close(), name=f"pool {self.name}: close")
        _closing_dropped.add(task)
        task.add_done_callback(_closing_dropped.discard)

    # -- borrowing ---------------------------------------------------------------------------------

    def acquire(
        self,
        *,
        timeout: float | None = None,
        caller: Caller | None = None,
        lane: Hashable | None = None,
        priority: Priority = "normal",
    ) -> Lease:
        """Borrow a connection: `async with` it, or `await` it and `release()` it.

        `timeout` (seconds) shortens or extends the wait; None is the pool's `acquire_timeout`, and 0 does not
        wait. Raises TypeError when it is no number, ValueError when it is below 0 or not finite.
        `caller` is named in reports of leaks. Those of one `lane` are served in order of arrival, and no lane
        takes what the others need; a name from outside is an `OutsideLane`. Raises ValueError for an unknown
        `priority`.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        if lane is None and priority == "normal":
            return self._lease().prepare_to_borrow(self._lending, timeout, caller, None)
        rank = NORMAL if priority == "normal" else rank_of(priority)
        return self._lease().prepare_to_borrow(self._lending, timeout, caller, (lane, rank))

    async def release(self, connection: object, *, timeout: float | None = None) -> None:  # noqa: ARG002
        """Return a lease; a second time does nothing. `timeout` is taken for asyncpg.Pool's sake: nothing
        is waited for here.

        Raises asyncpg.InterfaceError when it is not a lease of this pool.
        """
        if not isinstance(connection, Lease) or not connection.belongs_to(self._lending):
            raise asyncpg.InterfaceError(
                f"Pool.release() received {connection!r}, which is not a member of this pool"
            )
        connection.end()

    def set_lane(
        self, lane: Hashable | None, *, at_most: int | None = None, at_least: int = 0, weight: float = 1.0
    ) -> None:
        """Give a lane limits, before or while it is used.

        It holds no more than `at_most` connections; `at_least` so many are left to it, also
        after it was quiet; with a `weight` of 2 it has a share of two lanes. Raises ValueError for what
        cannot be kept.
        """
        self._lending.lanes.limit(lane, Limits(at_most, at_least, weight))

    def refuses_lane(self, lane: Hashable | None) -> bool:
        """Whether the breaker of this lane is not closed."""
        state = self._state
        return state.has_lanes and state.lanes.find(lane, monotonic()).breaker.is_open

    def try_shed(
        self,
        timeout: float | None = None,
        *,
        ahead: int = 0,
        lane: Hashable | None = None,
        priority: Priority = "normal",
    ) -> float | None:
        """Ask before making the effort to borrow: None, or seconds after which to come back.

        `ahead` others of this lane and priority have asked, were let through and will be in the queue before.
        A refusal is counted as if `acquire()` had raised PoolSaturated, and costs much less.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        check_count("ahead", ahead)
        config = self._state.config
        budget = config.acquire_timeout if timeout is None else timeout
        place = None if lane is None and priority == "normal" else (lane, rank_of(priority))
        return self._lending.try_shed(budget, ahead, place)

    def refuse_waiting(self) -> int:
        """Answer every waiter in the queue with PoolUnavailable now; how many there were."""
        return self._state.refuse_all(self._state.unavailable)

    async def ask_aside(self) -> None:
        """Ask the server for a sign of life on a session of its own, beside the pool's, and end that session.

        This tells whether the server is gone while all connections are in use. It is the one session above
        `max_size`, for as long as the question takes; the caller bounds that. Calls at the same time get
        the same answer.

        Raises what `asyncpg.connect()` and the query raise. `init` is not run.
        """
        await self._aside.run()

    async def connect_aside(self) -> asyncpg.Connection:
        """A session of the caller's own beside the pool's, made as they are, above `max_size` and in no
        statistics; the caller bounds it and ends it.

        Raises what `asyncpg.connect()` and `init` raise.
        """
        return await self._lending.connector.connect()

    # -- steering ----------------------------------------------------------------------------------

    async def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the bounds. What is idle above the new maximum is closed before this returns, what is
        in use when it comes back. Raises ValueError and TypeError as the constructor does."""
        state = self._state
        config = state.config
        changed = replace(
            config,
            min_size=config.min_size if min_size is None else min_size,
            max_size=config.max_size if max_size is None else max_size,
            init_size=None,  # the start is over
        )
        promised = state.lanes.promised()
        if promised and promised >= changed.max_size:
            raise ValueError(f"max_size must be above at_least of all lanes ({promised})")
        state.configure(changed)
        state.lanes.resize(changed.max_size)
        self._lending.closer.retire(self._lending.closer.surplus(), "resized")
        self._lending.pump()
        while state.closing and state.sessions > changed.max_size:
            await self._lending.tasks.settle_one(CLOSE_BOUND)

    def set_connect_args(self, dsn: str | None = None, **connect_options: Any) -> None:
        """Open connections with these arguments of `asyncpg.connect()` from now on; those that are open stay
        (see `expire_connections`). If none could be opened, that is tried at once. Raises as the constructor
        does."""
        state = self._state
        if self._lease is Lease:  # else connections of that class may still be there
            self._lease = _lease_for(connect_options)
        self._lending.connector.configure(dsn, connect_options)
        if state.loop is not None and not state.loop.is_closed():  # perhaps not the one that runs
            state.loop.call_soon_threadsafe(self._lending.opener.start_over)

    async def expire_connections(self) -> None:
        """Replace every connection: idle ones at once, the others when they are returned."""
        self._lending.closer.expire("asked")

    def suspend(self) -> None:
        """Lend nothing until `resume()`: borrowers wait, within their deadlines and `max_waiting`."""
        self._state.suspended = True

    def resume(self) -> None:
        """Lend again."""
        self._state.suspended = False
        self._lending.pump()

    # -- asyncpg.Pool's ways to open and close ----------------------------------------------------

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._opened().__await__()

    async def _opened(self) -> Self:
        await self.open()
        return self

    async def __aenter__(self) -> Self:
        return await self._opened()

    async def __aexit__(self, *_: object) -> None:
        await self.close()
