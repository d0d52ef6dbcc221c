"""What takes time: opening, checking, cleaning and closing a connection, each a task in the background.

A task does one thing with one connection and tells the outcome to the object that decides what happens next.
It handles its own errors. What it cannot handle, a cancel from anywhere, is for `broken_off()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Protocol

import asyncpg

from lifeguard.pool import cleanup, driver
from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.connector import Connector
from lifeguard.pool.effects import Effect
from lifeguard.pool.state import PoolState

# Seconds. A check that has not come back by then no longer counts as help for the waiter...
CHECK_PATIENCE = 0.1
# ...and one that has not come back by then has failed.
CHECK_BOUND = 2.0
# Goodbye to the server, the cancel of a running query included; then the socket is cut.
CLOSE_BOUND = 5.0


class Task(Protocol):
    """Something that takes time, done in the background."""

    name: str

    async def run(self) -> None:
        """Do it, and tell what came of it."""

    def broken_off(self) -> None:
        """It has ended in any other way than by returning, perhaps before its first step."""


# -- one connection --------------------------------------------------------------------------------


class Opening(Protocol):
    """Who decides what becomes of an attempt to connect."""

    def succeeded(self, attempt: OpenConnection, connection: asyncpg.Connection, seconds: float) -> None: ...
    def failed(self, attempt: OpenConnection, error: Exception) -> None: ...
    def broken_off(self, attempt: OpenConnection) -> None: ...
    def is_urgent(self, attempt: OpenConnection) -> bool: ...


class OpenConnection:
    """One attempt to open a connection."""

    name = "open"

    def __init__(self, connector: Connector, then: Opening) -> None:
        self._connector = connector
        self._then = then
        self.began_at = monotonic()

    async def run(self) -> None:
        started = monotonic()
        try:
            connection = await self._connector.connect(partial(self._then.is_urgent, self))
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must learn of it
            self._then.failed(self, error)
        else:
            self._then.succeeded(self, connection, monotonic() - started)

    def broken_off(self) -> None:
        self._then.broken_off(self)


class Using(Protocol):
    """Who decides what becomes of a connection that was checked or cleaned."""

    def check_is_late(self, pooled: PooledConnection) -> None: ...
    def check_failed(self, pooled: PooledConnection, error: Exception) -> None: ...
    def check_answered(self, pooled: PooledConnection, *, as_asked_for: bool) -> None: ...
    def cleaning_failed(self, pooled: PooledConnection, error: Exception) -> None: ...
    def cleaned(self, pooled: PooledConnection, *, answered: bool, as_asked_for: bool) -> None: ...
    def broken_off(self, pooled: PooledConnection) -> None: ...


class _WithConnection:
    """A task with one connection of the pool."""

    def __init__(self, pooled: PooledConnection, state: PoolState, connector: Connector, then: Using) -> None:
        self._pooled = pooled
        self._state = state
        self._connector = connector
        self._then = then

    def broken_off(self) -> None:
        self._then.broken_off(self._pooled)


class CheckConnection(_WithConnection):
    """See that the session answers, and renew what it has cached if that is old, with `init`'s codecs."""

    name = "check"

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        late = loop.call_later(CHECK_PATIENCE, self._then.check_is_late, self._pooled)
        try:
            as_asked_for = await self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, this session is not lent again
            self._then.check_failed(self._pooled, error)
        else:
            self._then.check_answered(self._pooled, as_asked_for=as_asked_for)
        finally:
            late.cancel()

    async def _ask(self) -> bool:
        """Whether the server is still what the pool asks for."""
        pooled = self._pooled
        if pooled.outdated:
            generation = self._state.generation
            await cleanup.renew_caches(pooled.connection)
            await self._connector.greet(pooled.connection)
            pooled.generation = generation
            pooled.outdated = pooled.needs_care = generation != self._state.generation
        return await self._connector.ask(pooled.connection, CHECK_BOUND)


class CleanConnection(_WithConnection):
    """Make a returned session fit for the next borrower: end what is under way, undo what was changed."""

    name = "clean"

    async def run(self) -> None:
        try:
            answered = await self._clean()
            as_asked_for = await self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, this session is not lent again
            self._then.cleaning_failed(self._pooled, error)
        else:
            self._then.cleaned(self._pooled, answered=answered, as_asked_for=as_asked_for)

    async def _clean(self) -> bool:
        """Whether the server has answered in doing so."""
        pooled, config = self._pooled, self._state.config
        never = config.reset == "never" or driver.is_through_pooler(
            pooled.connection
        )  # which resets by itself
        was_reset, answered = await cleanup.make_fit(
            pooled.connection,
            effect=Effect.NONE if never else pooled.effect,
            loose=pooled.loose,
            hook=config.reset_hook,
            resets=config.reset == "always" and not never,
        )
        if was_reset:
            self._state.tally.resets += 1
            if config.reset_hook is None:  # which may have left alone what `init` did
                await self._connector.greet(pooled.connection)
        return answered

    async def _ask(self) -> bool:
        """Whether the server is what the pool asks for, as far as there is doubt."""
        if not self._pooled.doubts_writable or self._state.read_only_since is not None:
            return True
        return await self._connector.ask(self._pooled.connection, cleanup.STEP_BOUND)


class CloseConnection:
    """Say goodbye to the server; cut the connection if it does not answer."""

    name = "close"

    def __init__(self, pooled: PooledConnection, then: Callable[[], None]) -> None:
        self._pooled = pooled
        self._then = then

    async def run(self) -> None:
        try:
            await self._pooled.connection.close(timeout=CLOSE_BOUND)
        except Exception:  # noqa: BLE001 - there is nothing more to do for it than to cut it
            self._pooled.connection.terminate()
        self._then()

    def broken_off(self) -> None:
        self._then()


# -- all of them -----------------------------------------------------------------------------------


class Tasks:
    """The tasks of one pool: kept alive, named, ended together."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, task: Task) -> asyncio.Task[None]:
        """Run it in the background.

        Its context is empty: it may outlive the borrower whose call has started it, and what it logs is not
        that one's.
        """
        context = Context()
        name = f"{self._owner}: {task.name}"
        running = asyncio.get_running_loop().create_task(task.run(), name=name, context=context)
        self._tasks.add(running)
        running.add_done_callback(partial(self._ended, task), context=context)
        return running

    def _ended(self, task: Task, ran: asyncio.Task[None]) -> None:
        self._tasks.discard(ran)
        error = None if ran.cancelled() else ran.exception()
        if error is not None:  # one that it does not handle
            ran.get_loop().call_exception_handler(
                {"message": f"{ran.get_name()} failed", "exception": error, "task": ran}
            )
        if ran.cancelled() or error is not None:
            task.broken_off()

    async def settle_one(self, timeout: float) -> None:
        """Wait until any of them has ended, for at most `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0)

    async def finish(self, timeout: float) -> None:
        """Wait for all of them; those that need more than `timeout` seconds are cancelled."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout)

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
