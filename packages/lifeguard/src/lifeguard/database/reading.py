"""A connection that only reads."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from asyncpg import Record

from lifeguard.database.errors import WriteRefused
from lifeguard.database.types import ReadConnection
from lifeguard.pool import known_reads, what_writes


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


def _refuse_to_write(query: str) -> None:
    if found := what_writes(query):
        raise WriteRefused(
            f"{found} was not sent: a ReadConnection takes SELECT, VALUES, TABLE, WITH, SHOW and EXPLAIN that"
            " only read. Take a Connection or a Transaction"
        )
