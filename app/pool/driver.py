"""The one place that touches what asyncpg keeps to itself.

Each function says which private name it needs; `tests/pool/test_driver.py` fails when one of them
moves. Read for asyncpg 0.32.
"""

from __future__ import annotations

import asyncio
import gc
import select
import socket
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import asyncpg
from asyncpg import connect_utils, transaction
from asyncpg.transaction import TransactionState

from app.pool.errors import StatementNotSent

# asyncpg's stubs leave its private names out, rightly.
Session = Any
T = TypeVar("T")

_PLAIN: Any = asyncpg.Connection
_INTERNET = frozenset((socket.AF_INET, socket.AF_INET6))

Isolation = Literal["read_committed", "read_uncommitted", "repeatable_read", "serializable"]

# Seconds, after the first probe. Linux waits two hours before its first keepalive and a quarter of an hour
# for an acknowledgement; a pool wants to know within the time that a request may take.
KEEPALIVE_INTERVAL = 5
KEEPALIVE_PROBES = 3
TCP_USER_TIMEOUT = 15

# Seconds for a cancel request that was sent to be closed by the server, which has answered the query.
_LAST_WORD = 0.5

NOT_SENT = "the server closed the connection before the statement was sent"


def statement_at_hand(connection: Session, query: str) -> Any:
    """The prepared statement that asyncpg keeps for `query`, if it can be run the short way; else None.

    asyncpg reaches a cached statement through five coroutines, which cost a small query a sixth of its
    time. The short way is `run_statement()` at once. None, and the long way then, when the statement is
    yet to be prepared, the query is to be logged, or `connection_class` may do things its own way
    (`_stmt_cache`, `_query_loggers`).
    """
    if connection._aborted or connection._query_loggers or connection.__class__ is not _PLAIN:
        return None
    return _cached(connection, query)


def _cached(connection: Session, query: str) -> Any:
    return connection._stmt_cache.get((query, connection._protocol.get_record_class(), False))


def run_statement(
    connection: Session, statement: Any, args: tuple[object, ...], limit: int, timeout: float | None
) -> Awaitable[list[asyncpg.Record]]:
    """Run a statement at hand; at most `limit` rows, 0 for all (`_protocol.bind_execute`).

    Raises as `Connection.fetch()`, besides InvalidCachedStatementError and OutdatedSchemaCacheError:
    then `forget_statements()`.
    """
    protocol = connection._protocol
    if timeout is not None:  # else the connection's command_timeout is taken there
        timeout = protocol._get_timeout(timeout)
    rows: Awaitable[list[asyncpg.Record]] = protocol.bind_execute(statement, args, "", limit, False, timeout)
    return rows


def forget_caches(connection: Session) -> None:
    """Forget prepared statements and types: they are read again when they are needed, and the server is told
    with the next new statement (`_drop_local_statement_cache`, `_drop_local_type_cache`)."""
    if connection._protocol is None:  # it was cut
        return
    connection._drop_local_statement_cache()
    connection._drop_local_type_cache()


async def close_forgotten_statements(connection: Session) -> None:
    """Have the server forget them now (`_cleanup_stmts`); asyncpg gives this no timeout."""
    await connection._cleanup_stmts()


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
    (`_aborted`) is another matter.
    """
    if connection._aborted or not connection.is_closed():
        return False
    if isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return executed_before is None or executed(connection) == executed_before
    return executed_before is not None and executed(connection) == executed_before


def last_words(connection: Session) -> str | None:
    """The SQLSTATE with which the server ended a session, if a call was under way for it to answer
    (`_protocol`, of whose fields the one that is an answer's error): asyncpg does not read it otherwise."""
    for held in gc.get_referents(connection._protocol):
        if type(held) is dict and held.get("S") is not None and "C" in held:
            code: str = held["C"]
            return code
    return None


def lost_its_place(connection: Session, error: Exception) -> bool:
    """Whether asyncpg calls the end of a session an internal error: it takes no notice of the server's last
    words between two statements, and knows of the end only when the next one fails."""
    unread = isinstance(error, asyncpg.InternalClientError)
    return unread and not isinstance(error, asyncpg.OutdatedSchemaCacheError) and connection.is_closed()


@contextmanager
def _losses_told(connection: Session) -> Iterator[None]:
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


def parameters(connection: Session, query: str) -> list[tuple[int, str]] | None:
    """Oid and kind of each argument of the prepared statement for `query`, as asyncpg believes
    (`_get_parameters`); None when it keeps none."""
    statement = _cached(connection, query)
    return None if statement is None else _types(statement)


async def ask_parameters(connection: Session, query: str, timeout: float | None) -> list[tuple[int, str]]:
    """The same as the server sees it now (`_get_statement`); what is cached stays as it is."""
    return _types(await connection._get_statement(query, timeout, use_cache=False))


def _types(statement: Any) -> list[tuple[int, str]]:
    return [(kind.oid, kind.kind) for kind in statement._get_parameters()]


def is_unresolved(error: Exception) -> bool:
    """Whether asyncpg has asked for types in vain, which were made anew meanwhile: nothing was sent."""
    return isinstance(error, asyncpg.InternalClientError) and "could not resolve query result" in str(error)


def is_cached(connection: Session, query: str) -> bool:
    """Whether asyncpg keeps a prepared statement for `query`."""
    return connection._protocol is not None and _cached(connection, query) is not None


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
    """What a borrower has left on it that it surely meant to end (`_listeners`, `_log_listeners`)."""
    found = {
        "a transaction": is_in_transaction(connection),
        "notification listeners": bool(connection._listeners),
        "log listeners": bool(connection._log_listeners),
    }
    return [] if connection.is_closed() else [what for what, there in found.items() if there]


def cut(connection: Session) -> None:
    """`Connection.terminate()`, also when its event loop is closed (`_loop`): the socket is then closed by
    whoever frees it."""
    try:
        connection.terminate()
    except RuntimeError:
        if not connection._loop.is_closed():
            raise


def forget_listeners(connection: Session) -> None:
    """Call nobody any more for a notification (`_listeners`); the server is not told."""
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
    (`_connection`, `_top_xact`, `_state`). Once begun it no longer knows the lease: who forgets a lease in a
    transaction must not keep it alive."""

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
        was returned (`_con_release_ctr`, `_check_conn_validity`); one that has ended is another matter."""
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
            with _losses_told(this._connection):
                await super().start()

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        this: Any = self
        if error is not None and this._connection.is_closed():
            this._state = TransactionState.FAILED  # it has ended with its session: let the error say why
            return
        with _losses_told(this._connection), _rolled_back_or_lost(self, error):
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
    with the transaction around it, if the error is swallowed there. None as `error`: it is no rollback."""
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
    with _losses_told(transaction._connection):
        await end


async def commit(connection: Session, begun: Any, timeout: float) -> str:
    """Commit what `begin` began; what the server calls it (`_top_xact`, `_state`).

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


async def copy(connection: Session, call: Coroutine[Any, Any, T]) -> T:
    """Await `call`, one of asyncpg's COPY methods, and raise what happened to it.

    When the connection has ended, or the server has ended the COPY before its time was up, asyncpg fails
    once more in clearing up, and that is what it raises (RuntimeError, AttributeError; over uvloop in the
    place of a CancelledError, too). What it waited for is then read by nobody, and told to the loop. Here it
    is read, and raised unless the source, the sink or a cancel has ended the COPY (`_cancellations`).
    """
    steps = _Copy(connection, call)
    try:
        return await steps
    except BaseException as error:
        told = steps.read()
        if steps.is_still_under_way() or isinstance(error, asyncpg.InternalClientError):
            connection.terminate()  # nothing more can be said on it, nor what the server says be read
        if connection.is_closed():
            # asyncpg has asked for a cancel all the same, of which nobody will tell it that it is over.
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


class _Copy(Awaitable[T]):
    """Takes a COPY step by step, and keeps the futures that asyncpg waits for (`_protocol`, of whose fields
    those that are futures)."""

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
            except BaseException as error:  # noqa: BLE001 - it is the call's
                thrown = error

    def look(self) -> None:
        """Keep the futures that asyncpg waits for now."""
        held = gc.get_referents(self.connection._protocol)
        futures = [future for future in held if asyncio.isfuture(future)]
        if len(futures) == 1:  # more of them while a cancel is under way
            self.waiter = futures[0]
        self.unread = {future for future in (*self.unread, *futures) if not _is_good(future)}

    def read(self) -> BaseException | None:
        """The error that asyncpg waited for, if it has come; one that comes later is nobody's business."""
        self.look()
        told = None
        for future in self.unread:
            if not future.done():
                future.add_done_callback(lambda late: late.cancelled() or late.exception())
            elif not future.cancelled():
                told = future.exception() or told
        return told

    def is_still_under_way(self) -> bool:
        """Whether asyncpg has left a COPY to the client without asking the server to end it: it was cancelled
        in the instant in which data had come."""
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
    """Whether an error that is nobody's to raise was raised in asyncpg's protocol or uvloop, both of them
    compiled, rather than in a borrower's source or sink."""
    if type(error) not in {RuntimeError, AttributeError}:
        return False
    place = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = frame.f_code.co_filename
    return place.endswith(".pyx")


def reading(connection: Session) -> Callable[[], bool]:
    """A question that costs less than a microsecond: has the server said something that nobody has read?

    On an idle connection that is mostly its end, which the event loop comes to only after the next statement
    has been written (`_transport`). Always False where there is no poll(2).
    """
    sock = connection._transport.get_extra_info("socket")
    if sock is None or not hasattr(select, "poll"):
        return lambda: False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    ask = poll.poll
    return lambda: bool(ask(0))


def tune_socket(connection: Session, keepalive: int) -> None:
    """Let the kernel notice a peer that is gone (`_transport`); asyncpg sets nothing of this.

    `keepalive`: seconds of silence before the first probe.
    """
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (
        ("TCP_KEEPIDLE", keepalive),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


def belong_to(connection: Session, loop: asyncio.AbstractEventLoop, address: str) -> None:
    """Have a session that was opened through a stand-in for `loop` belong to the loop itself (`_loop`), by
    which asyncpg looks the current task up, and to the `address` that was reached.

    A cancel request has to go to the same server (`_addr`). asyncpg verifies a certificate against what it
    connects to (`_params`), so where that is done the request goes to the name.
    """
    connection._loop = loop
    context = connection._params.ssl
    if not context or not context.check_hostname:
        connection._addr = (address, *connection._addr[1:])


def client_address(connection: Session) -> str | None:
    """`host:port` of this end of the connection (`_transport`); None over a Unix socket."""
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in _INTERNET:
        return None
    host, port, *_ = sock.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def targets_of(dsn: str | None, options: dict[str, Any]) -> tuple[list[tuple[str, int]], str]:
    """The hosts that `asyncpg.connect(dsn, **options)` would try, in order, and the role it would ask for.

    A socket's directory is a host; the role is a value of `target_session_attrs`.

    Raises asyncpg.ClientConfigurationError or ValueError when it would refuse its arguments
    (`_parse_connect_dsn_and_args`).
    """
    names = [
        "host",
        "port",
        "user",
        "password",
        "passfile",
        "database",
        "ssl",
        "direct_tls",
        "server_settings",
        "target_session_attrs",
        "krbsrvname",
        "gsslib",
        "service",
        "servicefile",
    ]
    parse: Any = connect_utils
    addresses, parameters = parse._parse_connect_dsn_and_args(
        dsn=dsn, **{name: options.get(name) for name in names}
    )
    hosts: list[tuple[str, int]] = []
    for address in addresses:
        if isinstance(address, str):
            directory, _, port = address.rpartition("/.s.PGSQL.")
            hosts.append((directory, int(port)))
        else:
            hosts.append((address[0], int(address[1])))
    return hosts, parameters.target_session_attrs.value
