"""What a borrower does to its session beyond running statements: transactions, COPY, listeners, codecs. What
has to be undone on return is noted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction as AsyncpgTransaction

from lifeguard.pool import driver
from lifeguard.pool.callbacks import with_lease
from lifeguard.pool.callsite import Caller, remedy_of
from lifeguard.pool.connection import CLOSED_BY_BORROWER, COPY_BROKEN_OFF, Begun, PooledConnection
from lifeguard.pool.driver import Isolation, Transaction
from lifeguard.pool.effects import Effect, effect_of
from lifeguard.pool.lending import Lending
from lifeguard.pool.recovery import Attempt, schema_changed
from lifeguard.pool.session_state import LISTEN, refuse_session_state, refused

if TYPE_CHECKING:
    _Proxy = PoolConnectionProxy[asyncpg.Record]
else:
    _Proxy = driver.LikeAConnection

T = TypeVar("T")


_BORROW_THERE = "borrow one where it is used: a lease ends with its `async with` block, or with release()"


def returned(name: str, caller: Caller | None) -> asyncpg.InterfaceError:
    """What a call on a lease that has ended raises; `caller` may know better what to do instead."""
    remedy = remedy_of(caller) or _BORROW_THERE
    return asyncpg.InterfaceError(
        f"cannot call Connection.{name}(): connection has been released back to the pool; {remedy}"
    )


def note_statement(pooled: PooledConnection, query: str) -> None:
    """Keep in mind what a statement does to the session. Raises SessionStateRefused where a pooler in between
    would give that to others."""
    effect = effect_of(query)
    if effect is not Effect.NONE:
        if driver.is_through_pooler(pooled.connection):
            refuse_session_state(query)
        pooled.changed_by(effect)


class SessionMethods(_Proxy):
    """Part of `Lease`. Help, names and signatures are those of the `asyncpg.Connection` methods.

    It is no PoolConnectionProxy, and has no `__getattr__`: with one, Python 3.11 looks up each attribute the
    slow way, which cost a twentieth of a small query.
    """

    __slots__ = ("__weakref__", "_con", "_lending", "_pooled")

    _caller: Caller | None
    _con: asyncpg.Connection | None  # None: every call raises
    _lending: Lending
    _pooled: PooledConnection

    def __repr__(self) -> str:
        held = "[released]" if self._con is None else repr(self._con)
        return f"<{type(self).__name__} {held} {id(self):#x}>"

    def _lent(self, name: str) -> PooledConnection:
        """The connection that is lent now; raises InterfaceError when none is."""
        if self._con is None:
            raise returned(name, self._caller)
        return self._pooled

    def has_unread(self) -> bool:
        """Whether the server has sent something that was not read yet: on an idle session mostly its end."""
        return self._lent("has_unread").has_unread()

    @property
    def was_refused_to_write(self) -> bool:
        """Whether the server has refused to write for this borrower (ReadOnlySQLTransactionError)."""
        return self._lent("was_refused_to_write").doubts_writable

    def mark_dirty(self) -> None:
        """Have the session reset on return: for statements that change it where the pool cannot see."""
        self._lent("mark_dirty")
        self._pooled.changed_by(Effect.DIRTY)

    async def _call(self, call: Callable[[driver.Session], Awaitable[T]], attempt: Attempt) -> T:
        """Await `call` of the connection, and once more if that is safe."""
        raise NotImplementedError

    def _attempt(
        self, pooled: PooledConnection, query: str | None, *, repeatable: bool = True, harmless: bool = False
    ) -> Attempt:
        executed = driver.executed(pooled.connection)
        return Attempt(query, pooled.bears_traces, executed, repeatable=repeatable, harmless=harmless)

    def _beyond(self, name: str) -> Any:
        """Something that only a `connection_class` has, or that is private to asyncpg. It may do anything
        to the session, and what it executes is not seen here."""
        attribute = getattr(self._con, name)
        if self._con is not None:
            self._pooled.begun = None
            self._pooled.changed_by(Effect.DIRTY)
        return attribute

    # -- transactions and COPY ----------------------------------------------------------------------

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
            note_statement(pooled, prelude)
        again = partial(driver.begin, begun=transaction, prelude=prelude)
        await self._call(again, self._attempt(pooled, None, harmless=True))
        pooled = self._pooled
        pooled.begun = Begun(again, driver.executed(pooled.connection))

    def transaction_after(
        self,
        prelude: str,
        *,
        isolation: Isolation | None = None,
        readonly: bool = False,
        deferrable: bool = False,
    ) -> Transaction:
        """As `transaction()`, with `prelude` as in `begin()`; inside of one it is a savepoint without it."""
        connection = self._lent("transaction").connection
        begin = partial(self._begin, prelude=prelude)
        return Transaction(connection, begin, isolation, readonly, deferrable)

    async def commit(self, transaction: AsyncpgTransaction, *, timeout: float) -> str:
        """Commit what `begin()` began within `timeout` seconds; `COMMIT`, or `ROLLBACK` if the server did
        that because a statement had failed."""
        pooled = self._lent("commit")
        commit = partial(driver.commit, begun=transaction, timeout=timeout)
        return await self._call(commit, self._attempt(pooled, None, repeatable=False))

    async def _copy(self, name: str, query: str | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call one of the COPY methods. After one that was broken off, asyncpg and the server no longer agree
        what is being said, so the connection is closed when it is returned."""
        pooled = self._lent(name)
        ended = pooled.connection.is_closed()
        attempt = Attempt(query, pooled.bears_traces, repeatable=ended, sent=not ended)
        pooled.begun = None  # a COPY is not counted as executed
        if query is not None:
            note_statement(pooled, query)

        def call(session: driver.Session) -> Awaitable[Any]:
            return driver.copy(session, getattr(session, name)(*args, **kwargs))

        try:
            return await self._call(call, attempt)
        except BaseException as error:
            pooled = self._pooled
            if not isinstance(error, asyncpg.PostgresError) or driver.is_cancelling(pooled.connection):
                pooled.retire(COPY_BROKEN_OFF)
            raise

    if not TYPE_CHECKING:  # typed by the base class

        def transaction(self, *, isolation=None, readonly=False, deferrable=False):
            connection = self._lent("transaction").connection
            return Transaction(connection, self._begin, isolation, readonly, deferrable)

        def copy_from_query(self, query, *args, **kwargs):
            return self._copy("copy_from_query", query, query, *args, **kwargs)

        def copy_from_table(self, table_name, **kwargs):
            return self._copy("copy_from_table", None, table_name, **kwargs)

        def copy_to_table(self, table_name, **kwargs):
            return self._copy("copy_to_table", _condition(kwargs.get("where")), table_name, **kwargs)

        def copy_records_to_table(self, table_name, **kwargs):
            return self._copy("copy_records_to_table", _condition(kwargs.get("where")), table_name, **kwargs)

        def cursor(self, query, *args, **kwargs):
            pooled = self._lent("cursor")
            pooled.begun = None  # it may hold rows of the transaction
            pooled.loosened()
            note_statement(pooled, query)
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
            if driver.is_through_pooler(pooled.connection):
                raise refused(LISTEN)
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
            self._pooled.generation = self._lending.state.generation  # whatever it has reported before
            schema_changed(self._lending, self._pooled)

        # A codec cannot be undone: asyncpg can neither list nor restore what was there.
        async def set_type_codec(self, *args, **kwargs):
            self._lent("set_type_codec").changed_by(Effect.RUINOUS)
            await self._con.set_type_codec(*args, **kwargs)

        async def reset_type_codec(self, *args, **kwargs):
            self._lent("reset_type_codec").changed_by(Effect.RUINOUS)
            await self._con.reset_type_codec(*args, **kwargs)

        async def set_builtin_type_codec(self, *args, **kwargs):
            self._lent("set_builtin_type_codec").changed_by(Effect.RUINOUS)
            await self._con.set_builtin_type_codec(*args, **kwargs)

        @property
        def __class__(self):
            """For `isinstance()`: what asyncpg.Pool lends."""
            return PoolConnectionProxy

        def __dir__(self):
            return dir(type(self))  # else of that class


@contextmanager
def _logging_queries(pooled: PooledConnection, callback: Any) -> Iterator[None]:
    connection = pooled.connection
    with connection.query_logger(callback):
        pooled.undo_on_return(partial(connection.remove_query_logger, callback))
        yield


def _condition(where: str | None) -> str | None:
    """The WHERE of a COPY as a statement, to see what it does to the session."""
    return None if where is None else f"SELECT {where}"
