"""A connection that only reads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

import asyncpg
from asyncpg import Record
from typing_extensions import override

from lifeguard.database.errors import WriteRefused
from lifeguard.database.replica import Replica
from lifeguard.database.types import ReadConnection
from lifeguard.pool import StatementNotSent, changes_session, known_reads, what_writes


class ReadingConnection:
    """What a ReadConnection is at run time: it has no other methods, and sends nothing that writes.

    Not coroutines themselves, which would cost a small query a twentieth of its time.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: ReadConnection) -> None:
        self._connection = connection

    # Any: passed on.
    def fetch(self, query: str, /, *args: object, **options: Any) -> Coroutine[Any, Any, list[Record]]:
        if query not in known_reads:
            _refuse_to_write(query)
        return self._connection.fetch(query, *args, **options)

    def fetchrow(self, query: str, /, *args: object, **options: Any) -> Coroutine[Any, Any, Record | None]:
        if query not in known_reads:
            _refuse_to_write(query)
        return self._connection.fetchrow(query, *args, **options)

    def fetchval(self, query: str, /, *args: object, **options: Any) -> Coroutine[Any, Any, Any]:
        if query not in known_reads:
            _refuse_to_write(query)
        return self._connection.fetchval(query, *args, **options)

    def is_closed(self) -> bool:
        return self._connection.is_closed()


# 40001 and, where both wait for each other, 40P01: replay had to go on, and took away what the statement
# read.
_CANCELLED_BY_REPLAY = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
# What a statement raises whose session has ended, on either side.
_LOST = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError)


class ReplicaReading(ReadingConnection):
    """It reads from a replica, and from the primary once the replica has cancelled a statement (a recovery
    conflict), has ended its session, or is frozen: that statement is repeated there, and what follows goes
    there too.

    Nothing of its answer was passed on, nothing was written, and the primary has all that was read before.
    Only what a statement did to the session is not there: who has changed that gets the error.
    """

    __slots__ = ("_changed_session", "_moved", "_replica", "_to_primary")

    def __init__(
        self,
        connection: ReadConnection,
        replica: Replica,
        to_primary: Callable[[Exception], Awaitable[ReadConnection]],
    ) -> None:
        """`to_primary` returns the replica's connection, and gives one to the primary."""
        super().__init__(connection)
        self._replica = replica
        self._to_primary = to_primary
        self._moved = False
        self._changed_session = False

    # Any: passed on.
    @override
    async def fetch(self, query: str, /, *args: object, **options: Any) -> list[Record]:
        rows: list[Record] = await self._read("fetch", query, args, options)
        return rows

    @override
    async def fetchrow(self, query: str, /, *args: object, **options: Any) -> Record | None:
        row: Record | None = await self._read("fetchrow", query, args, options)
        return row

    @override
    async def fetchval(self, query: str, /, *args: object, **options: Any) -> Any:
        return await self._read("fetchval", query, args, options)

    async def _read(self, method: str, query: str, args: tuple[object, ...], options: dict[str, Any]) -> Any:
        if query not in known_reads:
            _refuse_to_write(query)
        if not self._moved:
            self._changed_session = self._changed_session or changes_session(query)
            asked_at = monotonic()
            try:
                return await getattr(self._connection, method)(query, *args, **options)
            except (*_CANCELLED_BY_REPLAY, *_LOST) as error:
                if self._changed_session or not self._goes_elsewhere(error, asked_at):
                    raise
                self._connection = await self._to_primary(error)
                self._moved = True
        return await getattr(self._connection, method)(query, *args, **options)

    def _goes_elsewhere(self, error: Exception, asked_at: float) -> bool:
        """Not with a statement that was under way for as long as an operator may have looked at it before
        ending its session: it would only begin again."""
        if isinstance(error, _CANCELLED_BY_REPLAY):
            return True
        if not self._connection.is_closed():  # an error of another server, or of this side
            return False
        was_short = monotonic() - asked_at < self._replica.outage_patience
        return was_short or isinstance(error, StatementNotSent) or self._replica.may_be_left


def _refuse_to_write(query: str) -> None:
    if found := what_writes(query):
        raise WriteRefused(
            f"{found} was not sent: a ReadConnection takes SELECT, VALUES, TABLE, WITH, SHOW and EXPLAIN that"
            " only read. Take a Connection or a Transaction"
        )
