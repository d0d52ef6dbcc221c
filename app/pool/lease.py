"""What a borrower holds: an asyncpg connection in everything but ownership."""

from __future__ import annotations

from asyncio import current_task
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from sys import _getframe
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction

from app.pool import driver
from app.pool.driver import Isolation
from app.pool.hygiene import Effect, effect_of, known_clean
from app.pool.places import borrowers, place_of

if TYPE_CHECKING:
    from app.pool.circulation import Circulation
    from app.pool.connection import PooledConnection

    _Proxy = PoolConnectionProxy[asyncpg.Record]
else:
    _Proxy = PoolConnectionProxy


T = TypeVar("T")

_ALL, _ROW = object(), object()  # parts of a result, besides a column's number or name
_METHOD_OF = {_ALL: "fetch", _ROW: "fetchrow"}


def _returned(name: str) -> asyncpg.InterfaceError:
    return asyncpg.InterfaceError(
        f"cannot call Connection.{name}(): connection has been released back to the pool"
    )


class Lease(_Proxy):
    """A borrowed connection: all of `asyncpg.Connection`, from the borrow to the return. Before and after
    every call raises asyncpg.InterfaceError, also when the session is somebody else's by then.

    It is what `Pool.acquire()` gives, once: `async with` it, or `await` it and `Pool.release()` it.
    Dropped without being returned, it is reclaimed and reported.
    """

    __slots__ = ("_circulation", "_pooled", "_spent", "_timeout")

    _con: asyncpg.Connection | None  # asyncpg's proxy raises whatever is called while this is None

    def __init__(self, circulation: Circulation, timeout: float | None) -> None:
        self._circulation = circulation
        self._timeout = timeout
        self._spent = False
        self._con = None

    # -- borrowing and returning; these lines run for every request ---------------------------------

    async def __aenter__(self) -> Self:
        if self._spent:
            raise asyncpg.InterfaceError("a connection is already acquired")
        circulation = self._circulation
        asked_at = 0.0
        pooled = circulation.lend_idle() if circulation.idle else None
        if pooled is None:
            if circulation.has_setup:
                asked_at = monotonic()
            waiter = circulation.line_up(self._timeout)
            self._spent = True
            try:
                pooled = await waiter
            except BaseException:
                self._spent = False
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
        self._spent = True
        if circulation.has_setup:
            await circulation.set_up(self, pooled, asked_at or pooled.borrowed_at, self._timeout)
        return self

    # Any, because a finished future is no Coroutine, as AbstractAsyncContextManager has it.
    def __aexit__(self, kind: object, error: object, trace: object) -> Any:
        if self._con is not None:
            self._con = None
            self._circulation.take_back(self._pooled)
        return self._circulation.done  # there is nothing to wait for

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

    async def begin(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        prelude: str = "",
    ) -> Transaction:
        """Begin a transaction and run `prelude`, statements such as `SET LOCAL ...`, in one round trip.

        Ends with `commit()` or `Transaction.rollback()`; `transaction()` makes savepoints inside.
        """
        session = self._lent("begin").connection
        beginning = driver.begin(
            session, isolation=isolation, read_only=read_only, deferrable=deferrable, prelude=prelude
        )
        return await self._watched(beginning)

    async def commit(self, transaction: Transaction, *, timeout: float) -> str:
        """Commit what `begin()` began within `timeout` seconds; `COMMIT`, or `ROLLBACK` if the server did
        that because a statement had failed."""
        return await self._watched(driver.commit(self._lent("commit").connection, transaction, timeout))

    if not TYPE_CHECKING:  # typed by the base class
        # Not coroutines themselves: each layer of those costs a small query one part in twenty.
        def fetch(self, query, *args, timeout=None, record_class=None):
            if record_class is not None:
                return self._watch("fetch", query, *args, timeout=timeout, record_class=record_class)
            return self._run(query, args, timeout, _ALL)

        def fetchrow(self, query, *args, timeout=None, record_class=None):
            if record_class is not None:
                return self._watch("fetchrow", query, *args, timeout=timeout, record_class=record_class)
            return self._run(query, args, timeout, _ROW)

        def fetchval(self, query, *args, column=0, timeout=None):
            return self._run(query, args, timeout, column)

        def execute(self, query, *args, timeout=None):
            return self._watch("execute", query, *args, timeout=timeout)

        def executemany(self, command, args, *, timeout=None):
            return self._watch("executemany", command, args, timeout=timeout)

        def fetchmany(self, query, args, *, timeout=None, record_class=None):
            return self._watch("fetchmany", query, args, timeout=timeout, record_class=record_class)

        def copy_from_query(self, query, *args, **kwargs):
            return self._watch("copy_from_query", query, *args, **kwargs)

        def copy_from_table(self, table_name, **kwargs):
            return self._watch("copy_from_table", None, table_name, **kwargs)

        def copy_to_table(self, table_name, **kwargs):
            self._read_condition(kwargs.get("where"))
            return self._watch("copy_to_table", None, table_name, **kwargs)

        def copy_records_to_table(self, table_name, **kwargs):
            self._read_condition(kwargs.get("where"))
            return self._watch("copy_records_to_table", None, table_name, **kwargs)

        async def prepare(self, query, *, name=None, **kwargs):
            pooled = self._lent("prepare")
            pooled.loosened()
            if isinstance(name, str):
                # The next to use the name would find it taken, or lose it when asyncpg closes this one late.
                pooled.changed_by(Effect.RUINOUS)
            return await self._watch("prepare", query, name=name, **kwargs)

        def cursor(self, query, *args, **kwargs):
            pooled = self._lent("cursor")
            pooled.loosened()
            pooled.changed_by(effect_of(query))
            return self._con.cursor(query, *args, **kwargs)

        async def add_listener(self, channel, callback):
            pooled = self._lent("add_listener")
            pooled.changed_by(Effect.DIRTY)
            pooled.undo_on_return(partial(driver.forget_listeners, self._con))
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

        def query_logger(self, callback):
            pooled = self._lent("query_logger")
            pooled.undo_on_return(partial(self._con.remove_query_logger, callback))
            return self._con.query_logger(callback)

        async def reset(self, *, timeout=None):
            self._lent("reset").changed_by(Effect.DIRTY)  # it undoes what `init` did
            await self._con.reset(timeout=timeout)

        async def reload_schema_state(self):
            self._lent("reload_schema_state")
            await self._con.reload_schema_state()
            self._circulation.expire("schema_changed")  # the others know the old one

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

    def _read_condition(self, where: str | None) -> None:
        if where is not None and self._con is not None:
            self._pooled.changed_by(effect_of(f"SELECT {where}"))

    def _lent(self, name: str) -> PooledConnection:
        if self._con is None:
            raise _returned(name)
        return self._pooled

    async def _run(self, query: str, args: tuple[object, ...], timeout: float | None, part: Any) -> Any:
        """Run a statement the short way, if asyncpg has prepared it before on this connection."""
        connection = self._con
        if connection is None:
            raise _returned(_METHOD_OF.get(part, "fetchval"))
        pooled = self._pooled
        if query not in known_clean:
            pooled.changed_by(effect_of(query))
        statement = driver.statement_at_hand(connection, query)
        if statement is None:
            return await self._run_the_long_way(query, args, timeout, part)
        pooled.busy += 1
        try:
            rows = await driver.run_statement(connection, statement, args, 0 if part is _ALL else 1, timeout)
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            self._learn_from(error)
            if not await driver.forget_statements(connection, error):
                raise
        else:
            if part is _ALL:
                return rows
            if not rows:
                return None
            return rows[0] if part is _ROW else rows[0][part]
        finally:
            pooled.busy -= 1
        return await self._run_the_long_way(query, args, timeout, part)

    def _run_the_long_way(
        self, query: str, args: tuple[object, ...], timeout: float | None, part: Any
    ) -> Awaitable[Any]:
        if part is _ALL:
            return self._watch("fetch", query, *args, timeout=timeout)
        if part is _ROW:
            return self._watch("fetchrow", query, *args, timeout=timeout)
        return self._watch("fetchval", query, *args, timeout=timeout, column=part)

    async def _watch(self, name: str, query: str | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call the connection's method `name`: its statement read, its call counted, its error looked at."""
        pooled = self._lent(name)
        call: Callable[..., Any] = getattr(pooled.connection, name)
        if query is not None:
            pooled.changed_by(effect_of(query))
            call = partial(call, query)
        return await self._watched(call(*args, **kwargs))

    async def _watched(self, call: Awaitable[T]) -> T:
        pooled = self._pooled
        pooled.busy += 1
        try:
            return await call
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            self._learn_from(error)
            raise
        finally:
            pooled.busy -= 1

    def _learn_from(self, error: Exception) -> None:
        """Let the pool look at it. Raises what says the same more clearly, if there is such an error."""
        self._circulation.look_at_error(self._pooled, error)
        if driver.was_lost(self._pooled.connection, error):
            message = "the server closed the connection before the statement was sent"
            raise asyncpg.ConnectionDoesNotExistError(message) from error
