"""The state of one session: what was sent, what is left open, what is being cancelled, how it ended."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from lifeguard.pool.errors import StatementNotSent

# asyncpg's stubs leave its private names out.
Session = Any

LikeAConnection = asyncpg.connection._ConnectionProxy
"""What is of this class is an `asyncpg.Connection` for `isinstance()` (`_ConnectionProxy`)."""

# Seconds for a cancel request that was sent to be closed by the server, which has answered the query.
_LAST_WORD = 0.5

NOT_SENT = "the server closed the connection before the statement was sent"


def executed(connection: Session) -> int:
    """How many statements were sent to be run since the connection was opened (`_protocol.queries_count`);
    COPY and the parts of a cursor are not counted. -1 when it is cut."""
    protocol = connection._protocol
    return -1 if protocol is None else int(protocol.queries_count)


def never_sent(connection: Session, error: Exception, executed_before: int | None) -> bool:
    """Whether a call that raised `error` surely had nothing run, because the connection had ended before.

    asyncpg's own refusals (InterfaceError, and InternalClientError where it has read the server's last words)
    come before it writes. An error that arrived while it waited counts only if `executed()` has not moved
    since `executed_before`; None says that it was not looked at. A connection that was closed on this side
    (`_aborted`) does not count.
    """
    if connection._aborted or not connection.is_closed():
        return False
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return executed_before is None or executed(connection) == executed_before
    return executed_before is not None and executed(connection) == executed_before


def last_words(connection: Session) -> str | None:
    """The SQLSTATE with which the server ended a session, if it was the answer to a call that was under way
    (`_protocol`: the field that holds the error of an answer). asyncpg does not read it otherwise."""
    for held in gc.get_referents(connection._protocol):
        if type(held) is dict and held.get("S") is not None and "C" in held:
            code: str = held["C"]
            return code
    return None


def lost_its_place(connection: Session, error: Exception) -> bool:
    """Whether asyncpg calls the end of a session an internal error. It ignores what the server says between
    two statements, and learns of the end only when the next one fails."""
    unread = isinstance(error, asyncpg.InternalClientError)
    return unread and not isinstance(error, asyncpg.OutdatedSchemaCacheError) and connection.is_closed()


@contextmanager
def losses_told(connection: Session) -> Iterator[None]:
    """Raise StatementNotSent where asyncpg says that the connection is closed, or is wrong (`_aborted`)."""
    try:
        yield
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if connection.is_closed() and not connection._aborted:
            raise StatementNotSent(NOT_SENT) from error
        raise


def is_in_transaction(connection: Session) -> bool:
    """Whether it is in a transaction, or was when it ended (`_protocol`). asyncpg's own
    `Connection.is_in_transaction()` raises AttributeError on one that was cut; here that is False."""
    protocol = connection._protocol
    return protocol is not None and protocol.is_in_transaction()


def settle(connection: Session) -> bool:
    """End what the last borrower made on the connection; True if the session needs nothing more.

    Statements, cursors and transactions made on it raise from now on (`_pool_release_ctr`). False when
    it is closed, in a transaction, or still cancelling a query (`_top_xact`, `_protocol`).
    """
    connection._pool_release_ctr += 1
    if connection._aborted or connection._top_xact is not None:
        return False
    protocol = connection._protocol
    return protocol.is_connected() and not (protocol.is_in_transaction() or protocol._is_cancelling())


def check_transaction_ended(connection: Session, hook: str) -> None:
    """Raise InterfaceError when the hook has left a transaction open."""
    if is_in_transaction(connection):
        raise asyncpg.InterfaceError(f"the {hook} hook left a transaction open")


def left_open(connection: Session) -> list[str]:
    """What a borrower has left on it, surely by mistake (`_listeners`, `_log_listeners`)."""
    found = {
        "a transaction": is_in_transaction(connection),
        "notification listeners": bool(connection._listeners),
        "log listeners": bool(connection._log_listeners),
    }
    return [] if connection.is_closed() else [what for what, there in found.items() if there]


def cut(connection: Session) -> None:
    """`Connection.terminate()`, also when its event loop is closed (`_loop`): the socket is then closed when
    it is freed."""
    try:
        connection.terminate()
    except RuntimeError:
        if not connection._loop.is_closed():
            raise


def forget_listeners(connection: Session) -> None:
    """Call no listener for a notification any more (`_listeners`); the server is not told."""
    connection._listeners.clear()


def is_cancelling(connection: Session) -> bool:
    """Whether a query was cancelled and the server has yet to acknowledge it (`_protocol._is_cancelling`)."""
    return not connection.is_closed() and connection._protocol._is_cancelling()


def _cancels(connection: Session) -> list[tuple[asyncio.Task[Any], asyncio.Future[Any], bool]]:
    """The cancel requests under way: task, future of the query's end, whether the request has been sent.

    asyncpg keeps all this in the locals of two coroutines (`_cancellations`; `_cancel` there and in
    `connect_utils`).
    """
    found = []
    for task in connection._cancellations:
        own: Any = task.get_coro()
        if own.cr_frame is None:
            continue
        names = own.cr_frame.f_locals
        request = own.cr_await
        frame = getattr(request, "cr_frame", None)
        begun = frame is not None or request is not None
        sent = begun and (frame is None or frame.f_locals.get("tr") is not None)
        found.append((task, names["cancel_waiter"], sent))
    return found


def drop_cancel_once_answered(connection: Session) -> None:
    """When the server ends the cancelled query by itself, give up a cancel request that could not be sent.

    asyncpg would wait for it, and cut the connection after `command_timeout`. A request that has been sent is
    waited for: it could hit the next query.
    """

    def drop(_: asyncio.Future[Any]) -> None:
        for task, answer, sent in _cancels(connection):
            if answer.done() and not sent:
                task.cancel()

    for _, answer, _ in _cancels(connection):
        answer.add_done_callback(drop)


async def finish_cancelling(connection: Session, timeout: float, unsent_timeout: float | None = None) -> None:
    """Wait until the server has acknowledged the cancelled query (`_protocol._wait_for_cancellation`).

    Raises TimeoutError, with the connection cut, when it does not within `timeout` seconds; within
    `unsent_timeout` (None: the same) if the cancel request could not even be sent.
    """
    if not is_cancelling(connection):
        return
    drop_cancel_once_answered(connection)
    if unsent_timeout is not None and unsent_timeout > timeout:
        answers = [answer for _, answer, _ in _cancels(connection)]
        if answers:
            await asyncio.wait(answers, timeout=timeout)
        unsent = [answer for _, answer, sent in _cancels(connection) if not (sent or answer.done())]
        if unsent:
            await asyncio.wait(unsent, timeout=unsent_timeout - timeout)
        timeout = _LAST_WORD if all(answer.done() for answer in answers) else 0.0
    if not connection.is_closed():
        await connection._protocol._wait_for_cancellation(timeout)


async def roll_back(connection: Session, timeout: float) -> bool:
    """Roll back an open transaction, or one of which the BEGIN is still under way (`_top_xact`); True if that
    took a round trip."""
    begun, connection._top_xact = connection._top_xact, None
    if begun is None and not is_in_transaction(connection):
        return False
    await connection.execute("ROLLBACK", timeout=timeout)
    return True
