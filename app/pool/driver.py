"""The one place that touches what asyncpg keeps to itself.

Each function says which private name it needs; `tests/pool/test_driver.py` fails when one of them
moves. Read for asyncpg 0.32.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable
from typing import Any, Literal

import asyncpg
from asyncpg import connect_utils
from asyncpg.transaction import Transaction, TransactionState

# asyncpg's stubs leave its private names out, rightly.
Session = Any

_PLAIN: Any = asyncpg.Connection

Isolation = Literal["read_committed", "read_uncommitted", "repeatable_read", "serializable"]

# Seconds. Linux waits two hours before its first keepalive and a quarter of an hour for an
# acknowledgement; a pool wants to know within the time that a request may take.
KEEPALIVE_IDLE = 30
KEEPALIVE_INTERVAL = 5
KEEPALIVE_PROBES = 3
TCP_USER_TIMEOUT = 15


def statement_at_hand(connection: Session, query: str) -> Any:
    """The prepared statement that asyncpg keeps for `query`, if it can be run the short way; else None.

    asyncpg reaches a cached statement through five coroutines, which cost a small query a sixth of its
    time. The short way is `run_statement()` at once. None, and the long way then, when the statement is
    yet to be prepared, the query is to be logged, or `connection_class` may do things its own way
    (`_stmt_cache`, `_query_loggers`).
    """
    if connection._aborted or connection._query_loggers or connection.__class__ is not _PLAIN:
        return None
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


async def forget_statements(connection: Session, error: Exception) -> bool:
    """After a statement at hand was found outdated; True if the query may be tried the long way, as asyncpg
    does itself outside of a transaction (`_drop_local_statement_cache`)."""
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        connection._drop_local_statement_cache()
        return not connection.is_in_transaction()
    if isinstance(error, asyncpg.OutdatedSchemaCacheError):
        await connection.reload_schema_state()
    return False


def was_lost(connection: Session, error: Exception) -> bool:
    """Whether the error means that the server's last words on an idle connection had been read: asyncpg takes
    no notice of those before the next statement, and then calls them an internal error."""
    return isinstance(error, asyncpg.InternalClientError) and connection.is_closed()


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


def forget_listeners(connection: Session) -> None:
    """Call nobody any more for a notification (`_listeners`); the server is not told."""
    connection._listeners.clear()


async def finish_cancelling(connection: Session, timeout: float) -> None:
    """Wait until the server has acknowledged the cancelled query (`_protocol._wait_for_cancellation`).

    Raises TimeoutError, with the connection cut, when it does not within `timeout` seconds.
    """
    if not connection.is_closed():
        await connection._protocol._wait_for_cancellation(timeout)


async def roll_back(connection: Session, timeout: float) -> bool:
    """Roll back an open transaction, or one of which the BEGIN is still under way (`_top_xact`); True if that
    took a round trip."""
    begun, connection._top_xact = connection._top_xact, None
    if begun is None and not connection.is_in_transaction():
        return False
    await connection.execute("ROLLBACK", timeout=timeout)
    return True


async def begin(
    connection: Session,
    *,
    isolation: Isolation | None = None,
    read_only: bool = False,
    deferrable: bool = False,
    prelude: str = "",
) -> Transaction:
    """Begin a transaction and run `prelude` (statements such as `SET LOCAL ...`) in one round trip.

    asyncpg's own `Transaction.start()` has no room for a prelude. The transaction is its own all the
    same (`_top_xact`, `_state`), so `connection.transaction()` makes savepoints inside it.
    """
    transaction = connection.transaction(isolation=isolation, readonly=read_only, deferrable=deferrable)
    if connection._top_xact is not None or connection.is_in_transaction():
        raise asyncpg.InterfaceError("the connection is in a transaction already")
    words = ["BEGIN"]
    if isolation:
        words.append("ISOLATION LEVEL " + isolation.replace("_", " ").upper())
    if read_only:
        words.append("READ ONLY")
    if deferrable:
        words.append("DEFERRABLE")
    # As asyncpg does: claimed before the round trip, so that a failure in it is rolled back on return.
    connection._top_xact = transaction
    try:
        await connection.execute(f"{' '.join(words)}; {prelude}")
    except BaseException:
        transaction._state = TransactionState.FAILED
        raise
    transaction._state = TransactionState.STARTED
    started: Transaction = transaction
    return started


async def commit(connection: Session, transaction: Any, timeout: float) -> str:
    """Commit what `begin` began; what the server calls it (`_top_xact`, `_state`).

    That is `COMMIT`, or `ROLLBACK` when a statement had failed and its error was swallowed: asyncpg's own
    `Transaction.commit()` keeps the difference to itself.
    """
    if transaction._state is not TransactionState.STARTED:
        raise asyncpg.InterfaceError(f"the transaction is {transaction._state.name.lower()}")
    connection._top_xact = None
    try:
        status: str = await connection.execute("COMMIT", timeout=timeout)
    except BaseException:
        transaction._state = TransactionState.FAILED
        raise
    transaction._state = TransactionState.COMMITTED
    return status


def tune_socket(connection: Session) -> None:
    """Let the kernel notice a peer that is gone (`_transport`); asyncpg sets nothing of this."""
    sock = connection._transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", TCP_USER_TIMEOUT * 1000),
    ):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)


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
