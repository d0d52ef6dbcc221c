"""COPY, with the error that ended it."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

import asyncpg

from lifeguard.pool.driver.sessions import Session, is_cancelling

T = TypeVar("T")


async def copy(connection: Session, call: Coroutine[Any, Any, T]) -> T:
    """Await `call`, one of asyncpg's COPY methods, and raise what happened to it.

    When the connection has ended, or the server has ended the COPY early, asyncpg fails once more in clearing
    up, and raises that (RuntimeError, AttributeError; over uvloop also in place of a CancelledError). The
    error that it waited for is then not read, and the event loop complains of it. Here it is read, and raised
    unless the source, the sink or a cancel has ended the COPY (`_cancellations`).
    """
    steps = Copy(connection, call)
    try:
        return await steps
    except BaseException as error:
        told = steps.read()
        if steps.is_still_under_way() or isinstance(error, asyncpg.InternalClientError):
            connection.terminate()  # nothing more can be said on it, nor what the server says be read
        if connection.is_closed():
            # asyncpg has asked for a cancel all the same, and will not learn that it is over.
            for cancel in tuple(connection._cancellations):
                cancel.cancel()
        meant: BaseException | None = error
        while meant is not None and _fails_inside(meant):
            meant = meant.__context__
        if meant is error:
            raise
    if meant is None or isinstance(meant, TimeoutError):
        meant = told or meant
    raise meant or asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


class Copy(Awaitable[T]):
    """Runs a COPY step by step, and keeps the futures that asyncpg waits for (`_protocol`: the fields that
    are futures)."""

    def __init__(self, connection: Session, call: Coroutine[Any, Any, T]) -> None:
        self.connection = connection
        self.call = call
        self.waiter: asyncio.Future[Any] | None = None
        self.unread: set[asyncio.Future[Any]] = set()

    def __await__(self) -> Generator[Any, Any, T]:
        thrown: BaseException | None = None
        while True:
            try:
                step = self.call.send(None) if thrown is None else self.call.throw(thrown)
            except StopIteration as end:
                answer: T = end.value
                return answer
            self.look()
            thrown = None
            try:
                yield step
            except GeneratorExit:
                self.call.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is passed to the call
                thrown = error

    def look(self) -> None:
        """Keep the futures that asyncpg waits for now."""
        held = gc.get_referents(self.connection._protocol)
        futures = [future for future in held if asyncio.isfuture(future)]
        if len(futures) == 1:  # more of them while a cancel is under way
            self.waiter = futures[0]
        self.unread = {future for future in (*self.unread, *futures) if not _is_good(future)}

    def read(self) -> BaseException | None:
        """The error that asyncpg waited for, if it has come. One that comes later is read and dropped."""
        self.look()
        told = None
        for future in self.unread:
            if not future.done():
                future.add_done_callback(lambda late: late.cancelled() or late.exception())
            elif not future.cancelled():
                told = future.exception() or told
        return told

    def is_still_under_way(self) -> bool:
        """Whether asyncpg has left a COPY to the client without asking the server to end it. That happens
        when it is cancelled in the instant in which data has come."""
        waiter = self.waiter
        if waiter is None or not waiter.done() or self.connection.is_closed():
            return False
        if is_cancelling(self.connection):
            return False
        if waiter.cancelled():
            return True
        if waiter.exception() is not None:
            return False
        piece = waiter.result()  # of a COPY to the client: data, whether it was the last, what was done
        return isinstance(piece, tuple) and piece[1:2] == (False,)


def _is_good(future: asyncio.Future[Any]) -> bool:
    """Whether it has brought something that is no error."""
    return future.done() and not future.cancelled() and future.exception() is None


def _fails_inside(error: BaseException) -> bool:
    """Whether the error was raised inside asyncpg's protocol or uvloop, which are compiled, rather than in a
    borrower's source or sink."""
    if type(error) not in {RuntimeError, AttributeError}:
        return False
    file = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
    return file.endswith(".pyx")
