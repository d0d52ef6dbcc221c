"""Connections by what may be done with them. At run time each is the pool's lease itself, but for what reads.

A function says in its signature what it needs; mypy refuses to give it less:

    async def find(connection: ReadConnection, ...)    any connection will do, a replica's too
    async def record(connection: Connection, ...)      writes, each statement for itself
    async def move(transaction: Transaction, ...)      writes that are committed together or not at all

The methods are asyncpg's, with asyncpg's meaning (https://magicstack.github.io/asyncpg/current/api/).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from asyncpg import Record
from asyncpg.cursor import CursorFactory
from typing_extensions import override

Isolation = Literal["read_committed", "repeatable_read", "serializable"]


class ReadConnection(Protocol):
    """Reads, each in a snapshot of its own, maybe on a replica that lags behind the primary.

    It takes SELECT, VALUES, TABLE, WITH, SHOW and EXPLAIN that do not write, and raises WriteRefused for the
    rest. A Connection or a Transaction, which serves for reading as well, takes everything.
    """

    async def fetch(self, query: str, /, *args: object, timeout: float | None = None) -> list[Record]: ...

    async def fetchrow(self, query: str, /, *args: object, timeout: float | None = None) -> Record | None: ...

    # Any: asyncpg cannot know the type of a column, and `object` would force a cast on every use.
    async def fetchval(
        self, query: str, /, *args: object, column: int = 0, timeout: float | None = None
    ) -> Any: ...

    def is_closed(self) -> bool: ...


class Connection(ReadConnection, Protocol):
    """Reads and writes on the primary; every statement commits by itself.

    It has no `transaction()`: `Database.transaction()` begins one that is tagged and whose COMMIT is
    looked at.
    """

    async def execute(self, query: str, /, *args: object, timeout: float | None = None) -> str: ...

    async def executemany(
        self, command: str, /, args: Iterable[Sequence[object]], *, timeout: float | None = None
    ) -> None: ...

    async def copy_records_to_table(
        self,
        table_name: str,
        /,
        *,
        records: Iterable[Sequence[object]],
        columns: Iterable[str] | None = None,
        schema_name: str | None = None,
        timeout: float | None = None,
    ) -> str: ...

    def is_in_transaction(self) -> bool: ...


class Transaction(Connection, Protocol):
    """A connection inside a transaction, which commits when the block that opened it ends."""

    def cursor(self, query: str, /, *args: object, prefetch: int | None = None) -> CursorFactory[Record]: ...

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """A savepoint: what fails inside is undone alone."""
        ...

    # Always true here, which is what tells this type from Connection.
    @override
    def is_in_transaction(self) -> Literal[True]: ...
