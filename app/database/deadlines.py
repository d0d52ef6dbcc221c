"""A connection whose statements end with the call that makes them, not after it."""

from __future__ import annotations

from typing import Any

from app.database.scope import time_left
from app.pool import Lease


class DeadlineConnection:
    """Gives every statement the time that is left, `command_timeout` seconds at most.

    The client gives up, so it works without a transaction as well; asyncpg then has the server cancel
    the statement. Whatever takes no timeout passes through to the lease.
    """

    __slots__ = ("_command_timeout", "_deadline", "_lease")

    def __init__(self, lease: Lease, deadline: float, command_timeout: float) -> None:
        self._lease = lease
        self._deadline = deadline
        self._command_timeout = command_timeout

    # Any: asyncpg's signatures, passed on; callers see the protocols of app.database.types.
    async def fetch(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        return await self._lease.fetch(query, *args, timeout=self._time(timeout), **more)

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        return await self._lease.fetchrow(query, *args, timeout=self._time(timeout), **more)

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        return await self._lease.fetchval(query, *args, timeout=self._time(timeout), **more)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        return await self._lease.execute(query, *args, timeout=self._time(timeout))

    async def executemany(self, command: str, args: Any, *, timeout: float | None = None) -> None:
        await self._lease.executemany(command, args, timeout=self._time(timeout))

    async def copy_records_to_table(
        self, table_name: str, *, timeout: float | None = None, **more: Any
    ) -> str:
        return await self._lease.copy_records_to_table(table_name, timeout=self._time(timeout), **more)

    def cursor(self, query: str, *args: Any, timeout: float | None = None, **more: Any) -> Any:
        return self._lease.cursor(query, *args, timeout=self._time(timeout), **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    def _time(self, wanted: float | None) -> float:
        limit = self._command_timeout if wanted is None else wanted
        return min(limit, time_left(self._deadline))
