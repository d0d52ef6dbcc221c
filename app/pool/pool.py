"""The pool as its users see it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from contextvars import Context
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, Self

import asyncpg

from app.pool.books import State
from app.pool.circulation import CLOSE_BOUND, Circulation
from app.pool.config import KEEPALIVE, Hook, PoolConfig, ResetPolicy, check_count, check_seconds
from app.pool.connect import Connector
from app.pool.connection import Status
from app.pool.errors import PoolUnavailable
from app.pool.events import DrainReport, LeaseInfo, Listener, log_event
from app.pool.housekeeping import Housekeeping
from app.pool.jobs import Shared
from app.pool.leaks import lease_info
from app.pool.lease import Lease
from app.pool.places import Caller
from app.pool.queries import Queries
from app.pool.stats import PoolStats

# Seconds that `close()` waits for borrowers: as long as asyncpg.Pool waits before it warns.
CLOSE_PATIENCE = 60.0
_farewells: set[asyncio.Task[None]] = set()
"""Pools that were dropped, on their way out."""


class Pool(Queries):
    """A pool of asyncpg connections: fair, bounded in size and in every wait, healing itself.

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
        min_size: int = 5,
        max_size: int = 20,
        init_size: int | None = None,
        acquire_timeout: float = 5.0,
        max_waiting: int = 1000,
        queue_target: float = 0.25,
        connect_timeout: float = 5.0,
        keepalive: int = KEEPALIVE,
        idle_timeout: float = 30.0,
        max_lifetime: float = 1800.0,
        health_check_interval: float = 15.0,
        validate_after: float = 1.0,
        leak_threshold: float = 30.0,
        reset: ResetPolicy | Hook | None = "dirty",
        init: Hook | None = None,
        setup: Hook | None = None,
        name: str = "primary",
        on_event: Listener | None = None,
        **connect_options: Any,  # asyncpg.connect() checks them
    ) -> None:
        timeout = connect_options.pop("timeout", None)  # as asyncpg.connect() calls it
        if timeout is not None:
            connect_timeout = timeout
        config = PoolConfig(
            name=name,
            min_size=min_size,
            max_size=max_size,
            init_size=init_size,
            acquire_timeout=acquire_timeout,
            max_waiting=max_waiting,
            queue_target=queue_target,
            connect_timeout=connect_timeout,
            keepalive=keepalive,
            idle_timeout=idle_timeout,
            max_lifetime=max_lifetime,
            health_check_interval=health_check_interval,
            validate_after=validate_after,
            leak_threshold=leak_threshold,
            reset="dirty" if reset is None else reset,  # None: as asyncpg.Pool has it
            init=init,
            setup=setup,
        )
        connector = Connector(dsn, connect_timeout, init, connect_options, keepalive=keepalive)
        self._circulation = Circulation(config, connector, on_event or log_event)
        self._housekeeping = Housekeeping(self._circulation)
        self._aside = Shared(partial(_ask_aside, connector), f"pool {name}: ask aside")

    # -- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start opening the minimum in the background; returns at once, also when no server answers.

        Raises asyncpg.InterfaceError when the pool has been closed. Opening twice does nothing.
        """
        circulation = self._circulation
        if circulation.state is State.OPEN:
            return
        if circulation.state is not State.NEW:
            raise asyncpg.InterfaceError("a closed pool cannot be opened again; make a new one")
        circulation.bind(asyncio.get_running_loop())
        circulation.first_size = circulation.config.first_size
        circulation.state = State.OPEN
        self._housekeeping.start()
        circulation.pump()

    async def wait_ready(self, timeout: float) -> None:
        """Wait until one connection stands; raises PoolUnavailable or PoolTimeout after `timeout` seconds."""
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
        circulation = self._circulation
        if circulation.loop not in {None, asyncio.get_running_loop()}:
            return self._end_from_elsewhere()
        if circulation.state in {State.NEW, State.OPEN}:
            circulation.state = State.DRAINING
            circulation.note_progress()
        try:
            async with asyncio.timeout(timeout):
                await circulation.settled.wait()
        except TimeoutError:
            pass
        except BaseException:  # who stops waiting for the end wants it now, as with asyncpg.Pool
            self.terminate()
            raise
        cut_off = self.leases()
        refused = self._end()
        await circulation.jobs.finish(CLOSE_BOUND)
        report = DrainReport(monotonic() - started, cut_off, refused)
        circulation.report(
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
        circulation = self._circulation
        if circulation.loop is not None and circulation.loop.is_running():
            raise asyncpg.InterfaceError("the pool belongs to another event loop, which runs: end it there")
        cut_off = self.leases()
        self.terminate()
        return DrainReport(0.0, cut_off, 0)

    async def close(self) -> None:
        """`drain()` with a minute's patience; does nothing on a closed pool."""
        if self._circulation.state is not State.CLOSED:
            await self.drain(CLOSE_PATIENCE)

    def terminate(self) -> None:
        """Cut every connection now; waiters get PoolClosing. Works without a running loop, too."""
        self._end()
        circulation = self._circulation
        if circulation.loop is not None and not circulation.loop.is_closed():
            circulation.loop.call_soon(circulation.jobs.cancel)  # once they have noticed by themselves

    def _end(self) -> int:
        circulation = self._circulation
        circulation.state = State.CLOSED
        self._housekeeping.stop()
        circulation.opener.stop()
        refused = circulation.refuse_queue(circulation.closed_to_all)
        circulation.cut_off()
        circulation.settled.set()
        return refused

    def __del__(self) -> None:
        circulation = getattr(self, "_circulation", None)  # which a wrong argument may have prevented
        if circulation is None or circulation.state is not State.OPEN:
            return
        message = f"the pool {self.name!r} was dropped without being closed"
        warnings.warn(message, ResourceWarning, stacklevel=2, source=self)
        loop = circulation.loop
        if loop is not None and not loop.is_closed():
            # Not in the context of whatever the collector has interrupted.
            loop.call_soon_threadsafe(self._close_dropped, circulation, self._housekeeping, context=Context())

    @classmethod
    def _close_dropped(cls, circulation: Circulation, housekeeping: Housekeeping) -> None:
        """Close what is left of a pool that was garbage-collected; its leases may still be in use."""
        if circulation.state is not State.OPEN:
            return
        self = cls.__new__(cls)
        self._circulation, self._housekeeping = circulation, housekeeping
        circulation.state = State.DRAINING  # or this one would be dropped unclosed as well
        circulation.note_progress()
        task = asyncio.get_running_loop().create_task(self.close(), name=f"pool {self.name}: close")
        _farewells.add(task)
        task.add_done_callback(_farewells.discard)

    # -- borrowing ---------------------------------------------------------------------------------

    def acquire(self, *, timeout: float | None = None, caller: Caller | None = None) -> Lease:
        """Borrow a connection: `async with` it, or `await` it and `release()` it.

        `timeout` (seconds) shortens or extends the wait; None is the pool's `acquire_timeout`, and 0 waits
        for nobody. Raises TypeError when it is no number, ValueError when it is below 0 or not finite.
        `caller` is named in reports of leaks.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        return Lease(self._circulation, timeout, caller)

    async def release(self, connection: object, *, timeout: float | None = None) -> None:  # noqa: ARG002
        """Return a lease; a second time does nothing. `timeout` is taken for asyncpg.Pool's sake: nothing
        is waited for here.

        Raises asyncpg.InterfaceError when it is not a lease of this pool.
        """
        if not isinstance(connection, Lease) or not connection.belongs_to(self._circulation):
            raise asyncpg.InterfaceError(
                f"Pool.release() received {connection!r}, which is not a member of this pool"
            )
        connection.end()

    def try_shed(self, timeout: float | None = None, *, ahead: int = 0) -> float | None:
        """Ask before making the effort to borrow: None, or seconds after which to come back.

        `ahead` others have asked, were let through and will be in the queue before. A refusal is counted
        as if `acquire()` had raised PoolSaturated, and costs next to nothing.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        check_count("ahead", ahead)
        config = self._circulation.config
        return self._circulation.try_shed(config.acquire_timeout if timeout is None else timeout, ahead)

    def refuse_waiting(self) -> int:
        """Answer everybody in the queue with PoolUnavailable now; how many there were."""
        return self._circulation.refuse_queue(self._circulation.unavailable)

    async def ask_aside(self) -> None:
        """Ask the server for a sign of life on a session of its own, beside the pool's, and end that session.

        For whoever must know whether the server is gone while all connections are in use. It is the one
        session above `max_size`, for as long as the question takes; the caller bounds that. Several who ask
        at once get the same answer.

        Raises what `asyncpg.connect()`, `init` and the query raise.
        """
        await self._aside.run()

    # -- steering ----------------------------------------------------------------------------------

    async def resize(self, *, min_size: int | None = None, max_size: int | None = None) -> None:
        """Change the bounds. What is idle above the new maximum is closed before this returns, what is
        in use when it comes back. Raises ValueError and TypeError as the constructor does."""
        circulation = self._circulation
        config = circulation.config
        changed = replace(
            config,
            min_size=config.min_size if min_size is None else min_size,
            max_size=config.max_size if max_size is None else max_size,
            init_size=None,  # the start is over
        )
        circulation.configure(changed)
        circulation.retire(circulation.surplus(), "resized")
        circulation.pump()
        while circulation.closing and circulation.sessions > changed.max_size:
            await circulation.jobs.settle_one(CLOSE_BOUND)

    def set_connect_args(self, dsn: str | None = None, **connect_options: Any) -> None:
        """Open connections with these arguments of `asyncpg.connect()` from now on; those that are open stay
        (see `expire_connections`). If none could be opened, that is tried at once. Raises as the constructor
        does."""
        circulation = self._circulation
        circulation.connector.configure(dsn, connect_options)
        if circulation.loop is not None and not circulation.loop.is_closed():  # perhaps not the one that runs
            circulation.loop.call_soon_threadsafe(circulation.opener.start_over)

    async def expire_connections(self) -> None:
        """Replace every connection: idle ones at once, the others when they are returned."""
        self._circulation.expire("asked")

    def suspend(self) -> None:
        """Lend nothing until `resume()`: borrowers queue, within their deadlines and `max_waiting`."""
        self._circulation.suspended = True

    def resume(self) -> None:
        """Lend again."""
        self._circulation.suspended = False
        self._circulation.pump()

    # -- knowing -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._circulation.config.name

    def stats(self) -> PoolStats:
        """The numbers of this moment; no I/O."""
        return self._circulation.stats()

    def leases(self) -> tuple[LeaseInfo, ...]:
        """Who holds a connection now, longest first; no I/O."""
        now = monotonic()
        held = [p for p in self._circulation.members if p.status is Status.IN_USE]
        held.sort(key=lambda pooled: pooled.borrowed_at)
        return tuple(lease_info(pooled, now) for pooled in held)

    def get_size(self) -> int:
        """Live connections."""
        return len(self._circulation.members)

    def get_idle_size(self) -> int:
        return len(self._circulation.idle)

    def get_init_size(self) -> int:
        return self._circulation.config.first_size

    def get_min_size(self) -> int:
        return self._circulation.config.min_size

    def get_max_size(self) -> int:
        return self._circulation.config.max_size

    def is_closing(self) -> bool:
        """Draining or closed."""
        return self._circulation.state in {State.DRAINING, State.CLOSED}

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


async def _ask_aside(connector: Connector) -> None:
    connection = await connector.connect()
    try:
        await connection.execute("SELECT 1")
    finally:
        connection.terminate()
