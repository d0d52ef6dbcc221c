"""Transactions that can be begun again on another connection, and end by saying what the server said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import asyncpg
from asyncpg import transaction
from asyncpg.transaction import TransactionState

from lifeguard.pool.driver.sessions import Session, is_in_transaction, losses_told

Isolation = Literal["read_committed", "read_uncommitted", "repeatable_read", "serializable"]


async def begin(connection: Session, begun: Any, prelude: str = "") -> None:
    """Begin `begun` on `connection` and run `prelude` (statements such as `SET LOCAL ...`) in one round
    trip. The transaction may have been made, or even begun, on another connection.

    asyncpg's own `Transaction.start()` has no room for a prelude and stays with one connection. The
    transaction is asyncpg's all the same (`_top_xact`, `_state`, `_isolation`, `_readonly`, `_deferrable`,
    `_connection`, `_con_release_ctr`, `_pool_release_ctr`), so `connection.transaction()` makes savepoints
    inside it.
    """
    if connection.is_closed():
        raise asyncpg.InterfaceError("connection is closed")
    if connection._top_xact is not None or is_in_transaction(connection):
        raise asyncpg.InterfaceError("the connection is in a transaction already")
    begun._connection = connection
    begun._con_release_ctr = connection._pool_release_ctr
    words = ["BEGIN"]
    if begun._isolation:
        words.append("ISOLATION LEVEL " + begun._isolation.replace("_", " ").upper())
    if begun._readonly:
        words.append("READ ONLY")
    if begun._deferrable:
        words.append("DEFERRABLE")
    # As asyncpg does: claimed before the round trip, so that a failure in it is rolled back on return.
    connection._top_xact = begun
    try:
        await connection.execute(f"{' '.join(words)}; {prelude}")
    except BaseException:
        begun._state = TransactionState.FAILED
        raise
    begun._state = TransactionState.STARTED


class Transaction(transaction.Transaction):
    """asyncpg's transaction, begun by its lease, which can begin it again on another connection
    (`_connection`, `_top_xact`, `_state`). Once begun it no longer refers to the lease: a lease that is
    dropped in a transaction must not be kept alive by it."""

    __slots__ = ("begin_on_lease",)

    def __init__(
        self,
        connection: Session,
        begin: Callable[[Transaction], Awaitable[object]] | None,
        isolation: Isolation | None,
        readonly: bool,
        deferrable: bool,
    ) -> None:
        super().__init__(connection, isolation, readonly, deferrable)
        self.begin_on_lease = begin

    def start(self) -> Coroutine[Any, Any, None]:
        """Begin it, or make a savepoint inside another one. Raises InterfaceError at once if the connection
        was returned (`_con_release_ctr`, `_check_conn_validity`); of one that has ended, when it is begun."""
        this: Any = self
        if this._con_release_ctr != this._connection._pool_release_ctr:
            this._check_conn_validity("start")
        return self._start()

    async def _start(self) -> None:
        this: Any = self
        if this._connection._top_xact is None and self.begin_on_lease is not None:
            begin, self.begin_on_lease = self.begin_on_lease, None
            await begin(self)
        else:
            with losses_told(this._connection):
                await super().start()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        this: Any = self
        if error is not None and this._connection.is_closed():
            this._state = TransactionState.FAILED  # it has ended with its session, and the error says why
            return
        with losses_told(this._connection), _rolled_back_or_lost(self, error):
            await super().__aexit__(kind, error, trace)

    def commit(self) -> Coroutine[Any, Any, None]:
        return _told(self, super().commit())

    def rollback(self) -> Coroutine[Any, Any, None]:
        return _told(self, _roll_back(self, super().rollback()))

    def give_up(self) -> None:
        """Leave the rollback to the pool: from now on nothing of the whole transaction can be committed."""
        this: Any = self
        this._state = TransactionState.FAILED
        top = this._connection._top_xact
        if top is not None and this._con_release_ctr == this._connection._pool_release_ctr:
            top._state = TransactionState.FAILED

    @property
    def failed(self) -> bool:
        """Whether it can only be rolled back."""
        this: Any = self
        return bool(this._state is TransactionState.FAILED)


@contextmanager
def _rolled_back_or_lost(begun: Transaction, error: object = True) -> Iterator[None]:
    """A rollback that was broken off has perhaps not happened. What it was to undo must not be committed
    with the transaction around it if the error is swallowed there. `error` None: it is no rollback."""
    try:
        yield
    except (asyncio.CancelledError, TimeoutError):
        if error is not None:
            begun.give_up()
        raise


async def _roll_back(begun: Transaction, rollback: Awaitable[None]) -> None:
    with _rolled_back_or_lost(begun):
        await rollback


async def _told(transaction: Any, end: Coroutine[Any, Any, None]) -> None:
    with losses_told(transaction._connection):
        await end


async def commit(connection: Session, begun: Any, timeout: float) -> str:
    """Commit what `begin` began; the server's word for what it did (`_top_xact`, `_state`).

    That is `COMMIT`, or `ROLLBACK` when a statement had failed and its error was swallowed: asyncpg's own
    `Transaction.commit()` keeps the difference to itself.
    """
    if begun._state is not TransactionState.STARTED:
        raise asyncpg.InterfaceError(f"the transaction is {begun._state.name.lower()}")
    connection._top_xact = None
    try:
        status: str = await connection.execute("COMMIT", timeout=timeout)
    except BaseException:
        begun._state = TransactionState.FAILED
        raise
    begun._state = TransactionState.COMMITTED
    return status
