"""A connection whose calls end no later than the deadline of the request that they serve."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Generator
from typing import Any, TypeVar

from lifeguard.database.scope import time_left
from lifeguard.database.single import SingleStatements
from lifeguard.pool import Lease

T = TypeVar("T")


class DeadlineConnection:
    """Gives every call the time that is left, `command_timeout` seconds at most.

    The client gives up, so it works without a transaction as well; asyncpg then has the server cancel
    the statement. asyncpg's own timeout is for each round trip, and a call may take several: to prepare
    the statement, to ask for the types of its arguments. Therefore the deadline bounds the whole call too.
    So are those of what the connection makes: prepared statements, cursors, savepoints.
    """

    __slots__ = ("_command_timeout", "_deadline", "_lease")

    def __init__(self, lease: Lease | SingleStatements, deadline: float, command_timeout: float) -> None:
        self._lease = lease
        self._deadline = deadline
        self._command_timeout = command_timeout

    # Any: asyncpg's signatures, passed on; callers see the protocols of lifeguard.database.types.
    async def fetch(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        limit = self._time(timeout)
        async with asyncio.timeout_at(self._deadline):
            return await self._lease.fetch(query, *args, timeout=limit, **more)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        limit = self._time(timeout)
        async with asyncio.timeout_at(self._deadline):
            return await self._lease.fetchrow(query, *args, timeout=limit, **more)

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        limit = self._time(timeout)
        async with asyncio.timeout_at(self._deadline):
            return await self._lease.fetchval(query, *args, timeout=limit, **more)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        limit = self._time(timeout)
        async with asyncio.timeout_at(self._deadline):
            return await self._lease.execute(query, *args, timeout=limit)

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        limit = self._time(timeout)
        async with asyncio.timeout_at(self._deadline):
            await self._lease.executemany(command, args, timeout=limit)

    async def copy_records_to_table(
        self, table_name: str, *, timeout: float | None = None, **more: Any
    ) -> str:
        limit = self._time(timeout)
        async with asyncio.timeout_at(self._deadline):
            return await self._lease.copy_records_to_table(table_name, timeout=limit, **more)

    def cursor(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        limit = self._time(timeout)
        return _Bounded(self._lease.cursor(query, *args, timeout=limit, **more), self._deadline)

    def transaction(self, **options: Any) -> Any:
        return _BoundedTransaction(self._lease.transaction(**options), self._deadline)

    def __getattr__(self, name: str) -> Any:
        return _bounded(getattr(self._lease, name), self._deadline)

    def _time(self, wanted: float | None) -> float:
        limit = self._command_timeout if wanted is None else wanted
        return min(limit, time_left(self._deadline))


class _Bounded:
    """What a connection makes, a cursor for instance, with the deadline on every wait for it."""

    __slots__ = ("_deadline", "_made")

    def __init__(self, made: Any, deadline: float) -> None:
        self._made = made
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        return _bounded(getattr(self._made, name), self._deadline)

    def __await__(self) -> Generator[Any, Any, Any]:
        return _within(self._made, self._deadline).__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        rows = aiter(self._made)
        while True:
            async with asyncio.timeout_at(self._deadline):
                try:
                    row = await anext(rows)
                except StopAsyncIteration:
                    return
            yield row


class _BoundedTransaction(_Bounded):
    """A transaction, or a savepoint in one."""

    __slots__ = ()

    async def __aenter__(self) -> Any:
        return await _within(self._made.__aenter__(), self._deadline)

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> Any:
        if error is not None and self._deadline <= asyncio.get_running_loop().time():
            self._made.give_up()  # the pool rolls the whole transaction back
            return None
        return await _within(self._made.__aexit__(kind, error, trace), self._deadline)


_MADE = ("PreparedStatement", "Cursor", "CursorFactory")
"""Names of the classes whose objects wait for the server later."""


def _bounded(attribute: Any, deadline: float) -> Any:
    """The attribute; if it is a method whose result is awaited, a method whose result ends in time."""
    if not inspect.ismethod(attribute):
        return attribute

    def call(*args: Any, **kwargs: Any) -> Any:
        result = attribute(*args, **kwargs)
        if type(result).__name__ in _MADE:
            return _Bounded(result, deadline)
        return _within(result, deadline) if inspect.isawaitable(result) else result

    return call


async def _within(call: Awaitable[T], deadline: float) -> Any:
    if inspect.iscoroutine(call) and deadline <= asyncio.get_running_loop().time():
        call.close()
    time_left(deadline)
    async with asyncio.timeout_at(deadline):
        result = await call
    return _Bounded(result, deadline) if type(result).__name__ in _MADE else result
