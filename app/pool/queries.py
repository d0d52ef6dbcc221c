"""Pool-level queries: borrow, run one thing, return. The surface of asyncpg.Pool."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.pool.lease import Lease


def _on_a_lease(name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(self: Queries, *args: Any, **kwargs: Any) -> Any:
        async with self.acquire() as connection:
            return await getattr(connection, name)(*args, **kwargs)

    call.__name__ = name
    call.__doc__ = f"`asyncpg.Connection.{name}` on a connection borrowed for this call."
    return call


class Queries:
    """Mixin of `Pool`. Each method takes what the method of `asyncpg.Connection` takes and raises what it
    raises, besides PoolError when no connection can be lent."""

    def acquire(self, *, timeout: float | None = None) -> Lease:
        """Borrow a connection."""
        raise NotImplementedError

    if TYPE_CHECKING:
        execute = Lease.execute
        executemany = Lease.executemany
        fetch = Lease.fetch
        fetchval = Lease.fetchval
        fetchrow = Lease.fetchrow
        fetchmany = Lease.fetchmany
        copy_from_query = Lease.copy_from_query
        copy_from_table = Lease.copy_from_table
        copy_to_table = Lease.copy_to_table
        copy_records_to_table = Lease.copy_records_to_table
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
