"""The query methods of asyncpg.Pool: borrow a connection, run one thing, return it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from lifeguard.pool.lease import Lease

Records = type[asyncpg.Record] | None


def _on_a_lease(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: QueryMethods, *args: Any, **kwargs: Any) -> Any:
        async with self.acquire() as connection:
            return await getattr(connection, name)(*args, **kwargs)

    call.__name__ = name
    call.__doc__ = f"`asyncpg.Connection.{name}` on a connection borrowed for this call."
    return call


class QueryMethods:
    """Mixin of `Pool`. Each method takes what the method of `asyncpg.Connection` takes and raises what it
    raises, besides PoolError when no connection can be lent."""

    def acquire(self, *, timeout: float | None = None) -> Lease:
        """Borrow a connection."""
        raise NotImplementedError

    if TYPE_CHECKING:

        async def execute(self, query: str, *args: object, timeout: float | None = None) -> str: ...
        async def executemany(
            self, command: str, args: Iterable[Sequence[object]], *, timeout: float | None = None
        ) -> None: ...
        async def fetch(
            self, query: str, *args: object, timeout: float | None = None, record_class: Records = None
        ) -> list[asyncpg.Record]: ...
        async def fetchrow(
            self, query: str, *args: object, timeout: float | None = None, record_class: Records = None
        ) -> asyncpg.Record | None: ...
        async def fetchval(
            self, query: str, *args: object, column: int = 0, timeout: float | None = None
        ) -> Any: ...
        async def fetchmany(
            self,
            query: str,
            args: Iterable[Sequence[object]],
            *,
            timeout: float | None = None,
            record_class: Records = None,
        ) -> list[asyncpg.Record]: ...
        async def copy_from_query(self, query: str, *args: object, **options: Any) -> str: ...
        async def copy_from_table(self, table_name: str, **options: Any) -> str: ...
        async def copy_to_table(self, table_name: str, **options: Any) -> str: ...
        async def copy_records_to_table(self, table_name: str, **options: Any) -> str: ...
    else:
        execute = _on_a_lease("execute")
        executemany = _on_a_lease("executemany")
        fetch = _on_a_lease("fetch")
        fetchval = _on_a_lease("fetchval")
        fetchrow = _on_a_lease("fetchrow")
        fetchmany = _on_a_lease("fetchmany")
        copy_from_query = _on_a_lease("copy_from_query")
        copy_from_table = _on_a_lease("copy_from_table")
        copy_to_table = _on_a_lease("copy_to_table")
        copy_records_to_table = _on_a_lease("copy_records_to_table")
