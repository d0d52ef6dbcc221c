"""What endpoints ask for in their signatures.

    async def show(id: int, connection: ReadConnectionDep) -> Account: ...
    async def create(body: NewAccount, transaction: TransactionDep) -> Account: ...

A connection goes back, and a transaction commits, when the endpoint has returned and before the
answer is sent (`scope="function"`): a slow client holds no connection, and no client gets 201
for what then fails to commit.

What lives longer than an answer takes the database, and borrows for each piece of its work: a WebSocket,
an event stream, a background task.

    async def chat(socket: WebSocket, database: DatabaseDep) -> None: ...
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from starlette.requests import HTTPConnection

from lifeguard.database import Connection, Database, ReadConnection, Transaction
from lifeguard.pool import borrows_for_the_endpoint
from lifeguard.settings import Settings
from lifeguard.web.drain import Drain
from lifeguard.web.state import state_of

S = TypeVar("S", bound=Settings)


async def database(connection: HTTPConnection) -> Database:
    return state_of(connection)["database"]


async def drain(connection: HTTPConnection) -> Drain:
    return state_of(connection)["drain"]


@functools.cache
def settings_of(kind: type[S]) -> Callable[[HTTPConnection], Coroutine[Any, Any, S]]:
    """The dependency that gives an endpoint the service's settings as what they are: its own subclass.

        SettingsDep = Annotated[Settings, Depends(settings_of(Settings))]

    Raises TypeError where the service runs with settings of another class.
    """

    async def settings(connection: HTTPConnection) -> S:
        settings = state_of(connection)["settings"]
        if not isinstance(settings, kind):
            raise TypeError(f"the service's settings are {type(settings).__name__}, not {kind.__name__}")
        return settings

    settings.reads_no_content = True  # type: ignore[attr-defined]  # of a function
    return settings


# They use nothing that the client has sent; see `lifeguard.web.reads`.
database.reads_no_content = True  # type: ignore[attr-defined]  # of a function
drain.reads_no_content = True  # type: ignore[attr-defined]  # of a function

DatabaseDep = Annotated[Database, Depends(database)]
DrainDep = Annotated[Drain, Depends(drain)]
"""For what has no end of its own, like event streams: `await drain.wait()` returns when the service stops."""


class PinsConnection(Exception):
    """A WebSocket's endpoint that would keep a connection for hours; the message names the remedy."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the WebSocket {path} would keep a connection of the pool for its whole life: take DatabaseDep,"
            " and borrow for each message with `async with database.connection()`, read() or transaction()"
        )


async def lending(connection: HTTPConnection, database: DatabaseDep) -> Database:
    """Give the database to a dependency that borrows for the whole endpoint: too long for a WebSocket."""
    if connection.scope["type"] == "websocket":
        raise PinsConnection(connection.scope["path"])
    return database


lending.reads_no_content = True  # type: ignore[attr-defined]  # of a function
_LendingDep = Annotated[Database, Depends(lending)]


@borrows_for_the_endpoint
async def read_connection(database: _LendingDep) -> AsyncIterator[ReadConnection]:
    async with database.read() as connection:
        yield connection


@borrows_for_the_endpoint
async def connection(database: _LendingDep) -> AsyncIterator[Connection]:
    async with database.connection() as connection:
        yield connection


@borrows_for_the_endpoint
async def transaction(database: _LendingDep) -> AsyncIterator[Transaction]:
    async with database.transaction() as transaction:
        yield transaction


ReadConnectionDep = Annotated[ReadConnection, Depends(read_connection, scope="function")]
ConnectionDep = Annotated[Connection, Depends(connection, scope="function")]
TransactionDep = Annotated[Transaction, Depends(transaction, scope="function")]


def refuse_pinning(service: FastAPI) -> None:
    """Raise PinsConnection if a WebSocket route of `service` depends on a connection or a transaction.

    Those of an application that is mounted are refused at their handshake.
    """
    for route in iter_route_contexts(service.routes):
        dependant: Dependant | None = getattr(route, "dependant", None)
        if isinstance(route.original_route, APIWebSocketRoute) and dependant and _asks_to_borrow(dependant):
            raise PinsConnection(str(route.path))


def _asks_to_borrow(dependant: Dependant) -> bool:
    return dependant.call is lending or any(map(_asks_to_borrow, dependant.dependencies))


NEEDING_DATABASE = frozenset((database, read_connection, connection, transaction))
"""A route that depends on one of these is behind the gate."""
