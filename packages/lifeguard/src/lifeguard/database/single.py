"""Statements outside of a transaction, through a pooler: each in a transaction of its own, which brings what
the service's session would have had: the timeouts, the tag, the search_path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, TypeVar

from lifeguard.database.transactions import TransactionBlock
from lifeguard.pool import Lease, may_be_in_transaction, what_writes

T = TypeVar("T")


class SingleStatements:
    """A lease on which every statement that can be in a transaction is in one. That takes two round trips
    more: BEGIN with the settings, and COMMIT.

    What cannot (VACUUM, CREATE INDEX CONCURRENTLY, CALL, COPY) goes as it is, and is ended by this side.
    """

    __slots__ = ("_command_timeout", "_lease", "_prelude")

    def __init__(self, lease: Lease, prelude: Callable[[], str], command_timeout: float) -> None:
        """`prelude` gives the settings of the next transaction."""
        self._lease = lease
        self._prelude = prelude
        self._command_timeout = command_timeout

    # Any: asyncpg's signatures, passed on.
    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._alone(query, lambda: self._lease.fetch(query, *args, **options))

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._alone(query, lambda: self._lease.fetchrow(query, *args, **options))

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._alone(query, lambda: self._lease.fetchval(query, *args, **options))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        return await self._alone(query, lambda: self._lease.execute(query, *args, **options))

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        await self._alone(command, lambda: self._lease.executemany(command, args, **options))

    def transaction(self, **options: Any) -> Any:
        return self._lease.transaction_after(self._prelude(), **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)

    async def _alone(self, query: str, run: Callable[[], Awaitable[T]]) -> T:
        if self._lease.is_in_transaction() or not _may_be_in_transaction(query):
            return await run()
        async with TransactionBlock(
            self._lease,
            prelude=self._prelude(),
            command_timeout=self._command_timeout,
            writes=bool(what_writes(query)),
        ):
            return await run()


_may_be_in_transaction = lru_cache(maxsize=1024)(may_be_in_transaction)
