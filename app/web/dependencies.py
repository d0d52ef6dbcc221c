"""What endpoints ask for in their signatures.

    async def show(id: int, connection: ReadConnectionDep) -> Account: ...
    async def create(body: NewAccount, transaction: TransactionDep) -> Account: ...

A connection goes back, and a transaction commits, when the endpoint has returned and before the
answer is sent (`scope="function"`): a slow client holds no connection, and nobody is told of a
transfer that then fails to commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.database import Connection, Database, ReadConnection, Transaction
from app.pool import borrows_for_the_endpoint
from app.web.drain import Drain
from app.web.state import state_of


async def database(connection: HTTPConnection) -> Database:
    return state_of(connection)["database"]


async def drain(connection: HTTPConnection) -> Drain:
    return state_of(connection)["drain"]


DatabaseDep = Annotated[Database, Depends(database)]
DrainDep = Annotated[Drain, Depends(drain)]
"""For what has no end of its own, like event streams: `await drain.wait()` returns when the service stops."""


@borrows_for_the_endpoint
async def read_connection(database: DatabaseDep) -> AsyncIterator[ReadConnection]:
    async with database.read() as connection:
        yield connection


@borrows_for_the_endpoint
async def connection(database: DatabaseDep) -> AsyncIterator[Connection]:
    async with database.connection() as connection:
        yield connection


@borrows_for_the_endpoint
async def transaction(database: DatabaseDep) -> AsyncIterator[Transaction]:
    async with database.transaction() as transaction:
        yield transaction


ReadConnectionDep = Annotated[ReadConnection, Depends(read_connection, scope="function")]
ConnectionDep = Annotated[Connection, Depends(connection, scope="function")]
TransactionDep = Annotated[Transaction, Depends(transaction, scope="function")]

NEEDING_DATABASE = frozenset((database, read_connection, connection, transaction))
"""Whoever depends on one of these stands behind the gate."""
