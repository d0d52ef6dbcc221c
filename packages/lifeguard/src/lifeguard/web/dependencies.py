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
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.dependencies import utils
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
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


_STACK = "fastapi_function_astack"
"""Where FastAPI keeps what it leaves when the endpoint has returned: see tests' web/test_internals.py."""
_Block = Callable[[Database], AbstractAsyncContextManager[Any]]  # Any: what it lends
_Dependency = Callable[..., Any]  # a coroutine function, or an asynchronous generator


async def _database_of(connection: HTTPConnection) -> Database:
    """The service's; where a test has put another one into `dependency_overrides`, that."""
    overrides = getattr(connection.scope.get("app"), "dependency_overrides", None)
    if overrides and database in overrides:
        return await _overridden(connection)
    return state_of(connection)["database"]


async def _overridden(connection: HTTPConnection) -> Database:
    assert isinstance(connection, Request)
    solved = await utils.solve_dependencies(
        request=connection,
        dependant=_ASKING_FOR_DATABASE,
        dependency_overrides_provider=connection.app,
        async_exit_stack=connection.scope["fastapi_inner_astack"],
        embed_body_fields=False,
    )
    if solved.errors:
        raise RequestValidationError(solved.errors)
    given: Database = solved.values["database"]
    return given


async def _asking(database: DatabaseDep) -> None:
    """What `_overridden` has FastAPI solve."""


_ASKING_FOR_DATABASE = utils.get_dependant(path="", call=_asking)


def _keeps_function_stack() -> bool:
    """Whether FastAPI looks where this module does."""
    return _STACK in utils.solve_dependencies.__code__.co_consts


def _lent(name: str, block: _Block, *, at_once: bool) -> _Dependency:
    """Make the dependency `name`, which holds what `block` lends until the endpoint has returned.

    FastAPI wraps each generator in three context managers, and solves what it depends on separately. So this
    is a plain function that leaves the block to FastAPI's own stack (`at_once`). The generator does the same
    where that stack has moved.
    """

    async def lend(connection: HTTPConnection) -> Any:
        """Give what an endpoint asks for. Raises PinsConnection for a WebSocket, which lasts too long."""
        _refuse_socket(connection)
        database = await _database_of(connection)
        stack: AsyncExitStack = connection.scope[_STACK]
        return await stack.enter_async_context(block(database))

    async def lend_and_wait(connection: HTTPConnection, database: DatabaseDep) -> AsyncIterator[Any]:
        """The same, from FastAPI's documentation."""
        _refuse_socket(connection)
        async with block(database) as lent:
            yield lent

    made: _Dependency = lend if at_once else lend_and_wait
    made.__name__ = name
    made.reads_no_content = True  # type: ignore[attr-defined]  # of a function
    return borrows_for_the_endpoint(made)


def _refuse_socket(connection: HTTPConnection) -> None:
    if connection.scope["type"] == "websocket":
        raise PinsConnection(connection.scope["path"])


def _reading(database: Database) -> AbstractAsyncContextManager[ReadConnection]:
    return database.read()


def _connected(database: Database) -> AbstractAsyncContextManager[Connection]:
    return database.connection()


def _in_transaction(database: Database) -> AbstractAsyncContextManager[Transaction]:
    return database.transaction()


_at_once = _keeps_function_stack()
read_connection = _lent("read_connection", _reading, at_once=_at_once)
connection = _lent("connection", _connected, at_once=_at_once)
transaction = _lent("transaction", _in_transaction, at_once=_at_once)

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
    return dependant.call in BORROWING or any(map(_asks_to_borrow, dependant.dependencies))


BORROWING: Mapping[_Dependency, _Block] = {
    read_connection: _reading,
    connection: _connected,
    transaction: _in_transaction,
}
"""What lends a connection for the whole endpoint, and by which block."""

NEEDING_DATABASE = frozenset((database, *BORROWING))
"""A route that depends on one of these is behind the gate."""
