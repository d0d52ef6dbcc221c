"""What a borrower holds: an asyncpg connection in everything but ownership."""

from __future__ import annotations

from asyncio import current_task
from collections.abc import Callable, Generator
from functools import partial
from sys import _getframe
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from app.pool.hygiene import Effect, effect_of, known_clean
from app.pool.places import borrowers, place_of

if TYPE_CHECKING:
    from app.pool.circulation import Circulation
    from app.pool.connection import PooledConnection

    _Proxy = PoolConnectionProxy[asyncpg.Record]
else:
    _Proxy = PoolConnectionProxy


class Lease(_Proxy):
    """A borrowed connection: all of `asyncpg.Connection`, from the borrow to the return. Before and after
    every call raises asyncpg.InterfaceError, also when the session is somebody else's by then.

    It is what `Pool.acquire()` gives, once: `async with` it, or `await` it and `Pool.release()` it.
    Dropped without being returned, it is reclaimed and reported.
    """

    __slots__ = ("_circulation", "_pooled", "_timeout")

    _con: asyncpg.Connection | None  # asyncpg's proxy raises whatever is called while this is None

    def __init__(self, circulation: Circulation, timeout: float | None) -> None:
        self._circulation = circulation
        self._timeout = timeout
        self._con = None

    # -- borrowing and returning; these lines run for every request ---------------------------------

    async def __aenter__(self) -> Self:
        if self._con is not None:
            raise asyncpg.InterfaceError("a connection is already acquired")
        circulation = self._circulation
        pooled = circulation.lend_idle()
        if pooled is None:
            waiter = circulation.line_up(self._timeout)
            try:
                pooled = await waiter
            except BaseException:
                circulation.give_up(waiter)
                raise
        task = current_task(circulation.loop)
        pooled.task = held_by = ref(task) if task is not None else None
        frame = _getframe(1)
        pooled.place = (frame.f_code, frame.f_lasti) if frame.f_code in borrowers else place_of(frame)
        if circulation.holders.setdefault(held_by, pooled) is not pooled:
            circulation.leaks.nested(pooled)
        self._pooled = pooled
        self._con = pooled.connection
        if circulation.has_setup:
            await circulation.set_up(self, pooled, self._timeout)
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._con is not None:
            self._con = None
            self._circulation.take_back(self._pooled)

    def __await__(self) -> Generator[Any, Any, Self]:
        return self.__aenter__().__await__()

    def end(self) -> None:
        """Return it; a second time does nothing."""
        if self._con is not None:
            self._con = None
            self._circulation.take_back(self._pooled)

    def belongs_to(self, circulation: Circulation) -> bool:
        return self._circulation is circulation

    def __del__(self) -> None:
        if self._con is not None:
            self._circulation.reclaim(self._pooled)

    # -- what the pool has to know of ---------------------------------------------------------------

    def mark_dirty(self) -> None:
        """Have the session reset on return: for statements that change it where the pool cannot see."""
        self._lent("mark_dirty")
        self._pooled.changed_by(Effect.DIRTY)

    if not TYPE_CHECKING:  # typed by the base class
        # Written out, not generated: a shared wrapper would cost every query half a microsecond more.

        async def execute(self, query, *args, timeout=None):
            pooled = self._lent("execute") if self._con is None else self._pooled
            if query not in known_clean:
                pooled.changed_by(effect_of(query))
            pooled.busy += 1
            try:
                return await pooled.connection.execute(query, *args, timeout=timeout)
            except asyncpg.PostgresError as error:
                self._circulation.look_at_error(pooled, error)
                raise
            finally:
                pooled.busy -= 1

        async def fetch(self, query, *args, timeout=None, record_class=None):
            pooled = self._lent("fetch") if self._con is None else self._pooled
            if query not in known_clean:
                pooled.changed_by(effect_of(query))
            pooled.busy += 1
            try:
                return await pooled.connection.fetch(query, *args, timeout=timeout, record_class=record_class)
            except asyncpg.PostgresError as error:
                self._circulation.look_at_error(pooled, error)
                raise
            finally:
                pooled.busy -= 1

        async def fetchrow(self, query, *args, timeout=None, record_class=None):
            pooled = self._lent("fetchrow") if self._con is None else self._pooled
            if query not in known_clean:
                pooled.changed_by(effect_of(query))
            pooled.busy += 1
            try:
                return await pooled.connection.fetchrow(
                    query, *args, timeout=timeout, record_class=record_class
                )
            except asyncpg.PostgresError as error:
                self._circulation.look_at_error(pooled, error)
                raise
            finally:
                pooled.busy -= 1

        async def fetchval(self, query, *args, column=0, timeout=None):
            pooled = self._lent("fetchval") if self._con is None else self._pooled
            if query not in known_clean:
                pooled.changed_by(effect_of(query))
            pooled.busy += 1
            try:
                return await pooled.connection.fetchval(query, *args, column=column, timeout=timeout)
            except asyncpg.PostgresError as error:
                self._circulation.look_at_error(pooled, error)
                raise
            finally:
                pooled.busy -= 1

        async def executemany(self, command, args, *, timeout=None):
            self._read("executemany", command)
            return await self._watch("executemany", command, args, timeout=timeout)

        async def fetchmany(self, query, args, **kwargs):
            self._read("fetchmany", query)
            return await self._watch("fetchmany", query, args, **kwargs)

        async def copy_from_query(self, query, *args, **kwargs):
            self._read("copy_from_query", query)
            return await self._watch("copy_from_query", query, *args, **kwargs)

        async def copy_from_table(self, table_name, **kwargs):
            return await self._watch("copy_from_table", table_name, **kwargs)

        async def copy_to_table(self, table_name, **kwargs):
            return await self._watch("copy_to_table", table_name, **kwargs)

        async def copy_records_to_table(self, table_name, **kwargs):
            return await self._watch("copy_records_to_table", table_name, **kwargs)

        async def prepare(self, query, **kwargs):
            self._read("prepare", query).loosened()
            return await self._watch("prepare", query, **kwargs)

        def cursor(self, query, *args, **kwargs):
            self._read("cursor", query).loosened()
            return self._con.cursor(query, *args, **kwargs)

        async def add_listener(self, channel, callback):
            self._lent("add_listener").changed_by(Effect.DIRTY)
            await self._con.add_listener(channel, callback)

        def add_log_listener(self, callback):
            pooled = self._lent("add_log_listener")
            pooled.undo_on_return(partial(self._con.remove_log_listener, callback))
            self._con.add_log_listener(callback)

        def add_termination_listener(self, callback):
            pooled = self._lent("add_termination_listener")
            pooled.undo_on_return(partial(self._con.remove_termination_listener, callback))
            self._con.add_termination_listener(callback)

        def add_query_logger(self, callback):
            pooled = self._lent("add_query_logger")
            pooled.undo_on_return(partial(self._con.remove_query_logger, callback))
            self._con.add_query_logger(callback)

        # A codec is the session's for good: asyncpg can neither list nor restore what was there.
        async def set_type_codec(self, *args, **kwargs):
            self._lent("set_type_codec").changed_by(Effect.RUINOUS)
            await self._con.set_type_codec(*args, **kwargs)

        async def reset_type_codec(self, *args, **kwargs):
            self._lent("reset_type_codec").changed_by(Effect.RUINOUS)
            await self._con.reset_type_codec(*args, **kwargs)

        async def set_builtin_type_codec(self, *args, **kwargs):
            self._lent("set_builtin_type_codec").changed_by(Effect.RUINOUS)
            await self._con.set_builtin_type_codec(*args, **kwargs)

    def _lent(self, name: str) -> PooledConnection:
        if self._con is None:
            raise asyncpg.InterfaceError(
                f"cannot call Connection.{name}(): connection has been released back to the pool"
            )
        return self._pooled

    def _read(self, name: str, statement: str) -> PooledConnection:
        """Note what the statement may do to the session."""
        pooled = self._lent(name)
        pooled.changed_by(effect_of(statement))
        return pooled

    async def _watch(self, name: str, *args: Any, **kwargs: Any) -> Any:
        pooled = self._lent(name)
        call: Callable[..., Any] = getattr(pooled.connection, name)
        pooled.busy += 1
        try:
            return await call(*args, **kwargs)
        except asyncpg.PostgresError as error:
            self._circulation.look_at_error(pooled, error)
            raise
        finally:
            pooled.busy -= 1
