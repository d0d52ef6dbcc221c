"""What a borrower holds: an asyncpg connection in everything but ownership."""

from __future__ import annotations

from asyncio import current_task, sleep
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, update_wrapper
from sys import _getframe
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar
from weakref import ref

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction as AsyncpgTransaction

from app.pool import driver
from app.pool.callbacks import with_lease
from app.pool.connection import CLOSED_BY_BORROWER, Begun
from app.pool.driver import Isolation, Transaction
from app.pool.errors import PoolError
from app.pool.hygiene import Effect, effect_of, known_clean
from app.pool.places import borrowers, place_of
from app.pool.recovery import Attempt, recover

if TYPE_CHECKING:
    from app.pool.circulation import Circulation
    from app.pool.connection import PooledConnection
    from app.pool.places import Caller

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


_TAKING_MANY = frozenset(["executemany", "fetchmany"])


class _ReadOnce:
    """Arguments from an iterator. asyncpg repeats a statement whose plan has become invalid with what is left
    of them: here that raises, for it would lose the others."""

    def __init__(self, args: Iterable[Sequence[object]]) -> None:
        self._args: Iterable[Sequence[object]] | None = args

    def __iter__(self) -> Iterator[Sequence[object]]:
        args, self._args = self._args, None
        if args is None:
            raise asyncpg.InvalidCachedStatementError("the schema has changed; the arguments have been read")
        return iter(args)


def _readable(args: Iterable[Sequence[object]]) -> Iterable[Sequence[object]]:
    return args if isinstance(args, (list, tuple)) else _ReadOnce(args)


class Lease(_Proxy):
    """A borrowed connection: all of `asyncpg.Connection`, from the borrow to the return. Before and after
    every call raises asyncpg.InterfaceError, also when the session is somebody else's by then.

    It is what `Pool.acquire()` gives, once: `async with` it, or `await` it and `Pool.release()` it.
    Dropped without being returned, it is reclaimed and reported.
    """

    __slots__ = ("__weakref__", "_caller", "_circulation", "_pooled", "_spent", "_timeout")

    _con: asyncpg.Connection | None  # asyncpg's proxy raises whatever is called while this is None

    def __init__(self, circulation: Circulation, timeout: float | None, caller: Caller | None = None) -> None:
        self._circulation = circulation
        self._timeout = timeout
        self._caller = caller
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
            try:
                waiter = circulation.line_up(self._timeout)
            except PoolError:
                await sleep(0)  # who tries again at once must not keep the loop from mending the cause
                raise
            self._spent = True
            try:
                pooled = await waiter
            except BaseException:
                self._spent = False
                circulation.give_up(waiter)
                raise
        task = current_task(circulation.loop)
        pooled.task = held_by = ref(task) if task is not None else None
        pooled.caller = self._caller
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

    @property
    def has_ended(self) -> bool:
        """It was returned, or never lent."""
        return self._con is None

    def belongs_to(self, circulation: Circulation) -> bool:
        return self._circulation is circulation

    def __del__(self) -> None:
        if self._con is not None:
            self._circulation.reclaim(self._pooled)

    # -- what the pool has to know of ---------------------------------------------------------------

    def has_unread(self) -> bool:
        """Whether the server has said something, perhaps its last words, that nobody has read yet."""
        return self._lent("has_unread").has_unread()

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
        connection = self._lent("begin").connection
        transaction = Transaction(connection, None, isolation, read_only, deferrable)
        await self._begin(transaction, prelude)
        return transaction

    async def _begin(self, transaction: Transaction, prelude: str = "") -> None:
        pooled = self._lent("begin")
        if prelude and not all(part.startswith("SET LOCAL ") for part in prelude.split("; ")):
            pooled.changed_by(effect_of(prelude))
        again = partial(driver.begin, begun=transaction, prelude=prelude)
        await self._call(again, self._attempt(pooled, None, harmless=True))
        pooled = self._pooled
        pooled.begun = Begun(again, driver.executed(pooled.connection))

    async def commit(self, transaction: AsyncpgTransaction, *, timeout: float) -> str:
        """Commit what `begin()` began within `timeout` seconds; `COMMIT`, or `ROLLBACK` if the server did
        that because a statement had failed."""
        pooled = self._lent("commit")
        commit = partial(driver.commit, begun=transaction, timeout=timeout)
        return await self._call(commit, self._attempt(pooled, None, repeatable=False))

    if not TYPE_CHECKING:  # typed by the base class
        # Not coroutines themselves: each layer of those costs a small query one part in twenty. `own` are
        # parameters that only a `connection_class` knows.
        def fetch(self, query, *args, timeout=None, record_class=None, **own):
            if self._con is None:
                raise _returned("fetch")
            if record_class is not None or own:
                return self._watch("fetch", query, *args, timeout=timeout, record_class=record_class, **own)
            return self._run(query, args, timeout, _ALL)

        def fetchrow(self, query, *args, timeout=None, record_class=None, **own):
            if self._con is None:
                raise _returned("fetchrow")
            if record_class is not None or own:
                return self._watch(
                    "fetchrow", query, *args, timeout=timeout, record_class=record_class, **own
                )
            return self._run(query, args, timeout, _ROW)

        def fetchval(self, query, *args, column=0, timeout=None, **own):
            if self._con is None:
                raise _returned("fetchval")
            if own:
                return self._watch("fetchval", query, *args, column=column or None, timeout=timeout, **own)
            return self._run(query, args, timeout, column)

        def execute(self, query, *args, timeout=None, **own):
            self._lent("execute")
            return self._watch("execute", query, *args, timeout=timeout, **own)

        def executemany(self, command, args, *, timeout=None):
            return self._watch("executemany", command, _readable(args), timeout=timeout)

        def fetchmany(self, query, args, *, timeout=None, record_class=None):
            return self._watch(
                "fetchmany", query, _readable(args), timeout=timeout, record_class=record_class
            )

        def copy_from_query(self, query, *args, **kwargs):
            return self._copy("copy_from_query", query, query, *args, **kwargs)

        def copy_from_table(self, table_name, **kwargs):
            return self._copy("copy_from_table", None, table_name, **kwargs)

        def copy_to_table(self, table_name, **kwargs):
            return self._copy("copy_to_table", _condition(kwargs.get("where")), table_name, **kwargs)

        def copy_records_to_table(self, table_name, **kwargs):
            return self._copy("copy_records_to_table", _condition(kwargs.get("where")), table_name, **kwargs)

        def transaction(self, *, isolation=None, readonly=False, deferrable=False):
            connection = self._lent("transaction").connection
            return Transaction(connection, self._begin, isolation, readonly, deferrable)

        async def prepare(self, query, *, name=None, **kwargs):
            pooled = self._lent("prepare")
            bore_traces = pooled.bears_traces
            pooled.loosened()
            if isinstance(name, str):
                # The next to use the name would find it taken, or lose it when asyncpg closes this one late.
                pooled.changed_by(Effect.RUINOUS)
            return await self._watch("prepare", query, name=name, bore_traces=bore_traces, **kwargs)

        def cursor(self, query, *args, **kwargs):
            pooled = self._lent("cursor")
            pooled.begun = None  # it may hold rows of the transaction
            pooled.loosened()
            pooled.changed_by(effect_of(query))
            return self._con.cursor(query, *args, **kwargs)

        async def close(self, *, timeout=None):
            pooled = self._lent("close")
            pooled.retire(CLOSED_BY_BORROWER)
            pooled.retire_reason = CLOSED_BY_BORROWER  # also of one that was lost
            await self._con.close(timeout=timeout)

        def terminate(self):
            self._lent("terminate").retire(CLOSED_BY_BORROWER)
            self._con.terminate()

        async def add_listener(self, channel, callback):
            pooled = self._lent("add_listener")
            pooled.changed_by(Effect.DIRTY)
            pooled.undo_on_return(partial(driver.forget_listeners, self._con))
            await self._con.add_listener(channel, with_lease(self, callback))

        async def remove_listener(self, channel, callback):
            self._lent("remove_listener")
            await self._con.remove_listener(channel, with_lease(self, callback))

        def add_log_listener(self, callback):
            pooled = self._lent("add_log_listener")
            callback = with_lease(self, callback)
            self._con.add_log_listener(callback)  # first: what asyncpg refuses cannot be removed
            pooled.undo_on_return(partial(self._con.remove_log_listener, callback))

        def remove_log_listener(self, callback):
            self._lent("remove_log_listener")
            self._con.remove_log_listener(with_lease(self, callback))

        def add_termination_listener(self, callback):
            pooled = self._lent("add_termination_listener")
            callback = with_lease(self, callback)
            self._con.add_termination_listener(callback)
            pooled.undo_on_return(partial(self._con.remove_termination_listener, callback))

        def remove_termination_listener(self, callback):
            self._lent("remove_termination_listener")
            self._con.remove_termination_listener(with_lease(self, callback))

        def add_query_logger(self, callback):
            pooled = self._lent("add_query_logger")
            self._con.add_query_logger(callback)
            pooled.undo_on_return(partial(self._con.remove_query_logger, callback))

        def query_logger(self, callback):
            return _logging_queries(self._lent("query_logger"), callback)

        async def reset(self, *, timeout=None):
            self._lent("reset").changed_by(Effect.DIRTY)  # it undoes what `init` did
            await self._con.reset(timeout=timeout)

        async def reload_schema_state(self):
            self._lent("reload_schema_state")
            await self._con.reload_schema_state()
            self._pooled.generation = self._circulation.generation  # whatever it has reported before
            self._circulation.schema_changed(self._pooled)

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

        def __getattr__(self, name):
            """What only a `connection_class` has, or asyncpg keeps to itself. It may do anything to the
            session, and what it executes is not seen here."""
            attribute = getattr(self._con, name)
            if self._con is not None:
                self._pooled.begun = None
                self._pooled.changed_by(Effect.DIRTY)
            return attribute

    def _lent(self, name: str) -> PooledConnection:
        if self._con is None:
            raise _returned(name)
        return self._pooled

    def move_to(self, pooled: PooledConnection) -> None:
        """Go on with another connection; the one it had has ended and is no longer the pool's."""
        self._pooled = pooled
        self._con = pooled.connection

    # -- calls --------------------------------------------------------------------------------------

    async def _run(self, query: str, args: tuple[object, ...], timeout: float | None, part: Any) -> Any:
        """Run a statement the short way, if asyncpg has prepared it before on this connection."""
        connection = self._con
        if connection is None:
            raise _returned(_METHOD_OF.get(part, "fetchval"))
        pooled = self._pooled
        bore_traces = None
        if query not in known_clean:
            bore_traces = pooled.bears_traces
            pooled.changed_by(effect_of(query))
        statement = driver.statement_at_hand(connection, query)
        if statement is None:
            return await self._run_the_long_way(query, args, timeout, part, bore_traces)
        pooled.busy += 1
        try:
            rows = await driver.run_statement(connection, statement, args, 0 if part is _ALL else 1, timeout)
        except BaseException as error:
            if bore_traces is None:
                bore_traces = pooled.bears_traces
            attempt = Attempt(query, bore_traces, cached=True, timeout=timeout)
            if not await self._may_repeat(pooled, error, attempt):
                raise
        else:
            pooled.heard_of_at = monotonic()
            if part is _ALL:
                return rows
            if not rows:
                return None
            return rows[0] if part is _ROW else rows[0][part]
        finally:
            pooled.busy -= 1
        return await self._run_the_long_way(query, args, timeout, part, bore_traces, repeated=True)

    def _run_the_long_way(
        self,
        query: str,
        args: tuple[object, ...],
        timeout: float | None,
        part: Any,
        bore_traces: bool | None,
        *,
        repeated: bool = False,
    ) -> Awaitable[Any]:
        known: dict[str, Any] = {"timeout": timeout, "bore_traces": bore_traces, "repeated": repeated}
        if part is _ALL:
            return self._watch("fetch", query, *args, **known)
        if part is _ROW:
            return self._watch("fetchrow", query, *args, **known)
        if part:  # only what was asked for, as in `_watch`
            known["column"] = part
        return self._watch("fetchval", query, *args, **known)

    async def _watch(
        self,
        name: str,
        query: str,
        /,
        *args: Any,
        bore_traces: bool | None = None,
        repeated: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call the connection's method `name`: its statement read, its call counted, its error looked at.
        `bore_traces` is how the session was before, where the statement has been read already; `repeated`
        that this is the second time."""
        pooled = self._lent(name)
        repeatable = not (repeated or (args and isinstance(args[0], _ReadOnce)))
        attempt = self._attempt(pooled, query, repeatable=repeatable)
        attempt.timeout = kwargs.get("timeout")
        attempt.many = name in _TAKING_MANY
        attempt.cached = bool(args or name != "execute") and driver.is_cached(pooled.connection, query)
        if attempt.many and not (isinstance(args[0], (list, tuple)) and args[0]):
            pooled.loosened()  # prepared and perhaps not run: see `note_failure`
        if bore_traces is not None:
            attempt.bore_traces = bore_traces
        pooled.changed_by(effect_of(query))
        # Only what was asked for: the method of a `connection_class` may take less.
        given = {option: value for option, value in kwargs.items() if value is not None}
        return await self._call(lambda session: getattr(session, name)(query, *args, **given), attempt)

    async def _copy(self, name: str, query: str | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call one of the COPY methods. One that was broken off leaves asyncpg and server of two minds, so
        the connection is closed when it is returned."""
        pooled = self._lent(name)
        ended = pooled.connection.is_closed()
        attempt = Attempt(query, pooled.bears_traces, repeatable=ended, sent=not ended)
        pooled.begun = None  # a COPY is not counted as executed
        if query is not None:
            pooled.changed_by(effect_of(query))

        def call(session: driver.Session) -> Awaitable[Any]:
            return driver.copy(session, getattr(session, name)(*args, **kwargs))

        try:
            return await self._call(call, attempt)
        except BaseException as error:
            pooled = self._pooled
            if not isinstance(error, asyncpg.PostgresError) or driver.is_cancelling(pooled.connection):
                pooled.retire("copy_broken_off")
            raise

    def _attempt(
        self, pooled: PooledConnection, query: str | None, *, repeatable: bool = True, harmless: bool = False
    ) -> Attempt:
        executed = driver.executed(pooled.connection)
        return Attempt(query, pooled.bears_traces, executed, repeatable=repeatable, harmless=harmless)

    async def _call(self, call: Callable[[driver.Session], Awaitable[T]], attempt: Attempt) -> T:
        """Await `call` of the connection, and once more if that is safe."""
        pooled = self._pooled
        pooled.busy += 1
        try:
            answer = await call(pooled.connection)
        except BaseException as error:
            if not await self._may_repeat(pooled, error, attempt):
                raise
        else:
            pooled.heard_of_at = monotonic()
            return answer
        finally:
            pooled.busy -= 1
        pooled = self._pooled
        try:
            return await _counted(pooled, call)
        except BaseException as error:
            self._circulation.note_failure(pooled, error)
            raise

    async def _may_repeat(self, pooled: PooledConnection, error: BaseException, attempt: Attempt) -> bool:
        """Let the pool learn from the error. Whether to make the call again, on what is by then this lease's
        connection. Raises what says the same more clearly, if there is such an error."""
        if self._con is None:  # returned while the call was under way
            return False
        again = await recover(self._circulation, self, pooled, error, attempt)
        if again is None:
            return False
        if attempt.query is not None:
            again.changed_by(effect_of(attempt.query))
        return True


async def _counted(pooled: PooledConnection, call: Callable[[driver.Session], Awaitable[T]]) -> T:
    pooled.busy += 1
    try:
        answer = await call(pooled.connection)
    finally:
        pooled.busy -= 1
    pooled.heard_of_at = monotonic()
    return answer


@contextmanager
def _logging_queries(pooled: PooledConnection, callback: Any) -> Iterator[None]:
    connection = pooled.connection
    with connection.query_logger(callback):
        pooled.undo_on_return(partial(connection.remove_query_logger, callback))
        yield


def _condition(where: str | None) -> str | None:
    """What the WHERE of a COPY would be as a statement, to see what it does to the session."""
    return None if where is None else f"SELECT {where}"


# Help, names and signatures are those of the methods that these stand for.
for _name, _method in vars(Lease).items():
    if callable(_method) and not _name.startswith("_") and hasattr(asyncpg.Connection, _name):
        update_wrapper(_method, getattr(asyncpg.Connection, _name))
