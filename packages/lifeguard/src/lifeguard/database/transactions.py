"""Begin a transaction with its tag and timeouts in one round trip, and end it with a known outcome."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, cast

import asyncpg

from lifeguard.database.connect_options import milliseconds, quoted
from lifeguard.database.errors import SESSION_ENDED, CommitUnknown, TransactionAborted
from lifeguard.database.scope import current_deadline, current_tag, time_left, within_deadline
from lifeguard.database.types import Isolation, Transaction
from lifeguard.pool import Lease, StatementNotSent

if TYPE_CHECKING:
    from lifeguard.pool.driver import Transaction as DriverTransaction

_LONGEST_NAME = 63  # bytes of application_name that the server keeps (NAMEDATALEN - 1)

_ENDING_STATEMENTS = ("statement_timeout", "lock_timeout")

# Seconds past the call's deadline that the end of a transaction may take: a COMMIT is sent, and to give
# up on it would turn a certain outcome into an unknown one.
_GRACE = 0.2
# Seconds for a ROLLBACK; the pool does it otherwise, when nobody waits any more.
_ROLLBACK_PATIENCE = 1.0

# At a timeout of its own asyncpg would send a cancel request, and to cancel a COMMIT that waits for a
# synchronous standby makes the transaction visible though no standby has it. We cut the connection before.
_WITHOUT_CANCEL = 86_400.0  # seconds
# How often the event loop may turn to read what the server has said before COMMIT is sent.
_TURNS_TO_READ = 3

_CONFIRM_READS = "SELECT pg_catalog.pg_logical_emit_message(true, 'lifeguard', 'reads confirmed')"

# What asyncpg raises when an answer did not arrive; a server that answers raises something else.
_NO_ANSWER = (
    *SESSION_ENDED,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # a TimeoutError is one
)


class TransactionBlock:
    """BEGIN and `prelude` in one round trip; COMMIT at the end of the block, ROLLBACK if it raised.

    Where nothing in it writes, a COMMIT that is not confirmed is a lost session and no CommitUnknown.

    Raises CommitUnknown, TransactionAborted, and what the server says to BEGIN, to COMMIT (deferred
    constraints, serialization failures) and to the statements inside.
    """

    __slots__ = ("_begin", "_begun", "_command_timeout", "_lease", "_writes")

    _begun: DriverTransaction

    def __init__(
        self,
        lease: Lease,
        *,
        prelude: str,
        command_timeout: float,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        writes: bool = True,
    ) -> None:
        self._lease = lease
        self._begin = (isolation, read_only, deferrable, prelude)
        self._command_timeout = command_timeout
        self._writes = writes and not read_only

    async def __aenter__(self) -> Transaction:
        isolation, read_only, deferrable, prelude = self._begin
        self._begun = await within_deadline(
            self._lease.begin(
                isolation=isolation, read_only=read_only, deferrable=deferrable, prelude=prelude
            )
        )
        return cast("Transaction", self._lease)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, begun = self._lease, self._begun
        if error is None:
            await _read_last_words(lease)
            _check_that_it_can_commit(lease, begun)
            await _commit(lease, begun, _patience(self._command_timeout), writes=self._writes)
        elif isinstance(error, Exception) and not isinstance(error, TimeoutError):
            await _roll_back(begun)
        # After a TimeoutError the server still has to acknowledge the cancel: the pool waits for it, and
        # rolls back.


@asynccontextmanager
async def reading_transaction(lease: Lease, prelude: str) -> AsyncIterator[None]:
    """A transaction for what only reads. It is rolled back at the end, so it does not matter whether a
    statement in it has failed."""
    begun = await within_deadline(lease.begin(read_only=True, prelude=prelude))
    try:
        yield
    except TimeoutError:
        raise  # as in `TransactionBlock`
    except Exception:
        await _roll_back(begun)
        raise
    await _roll_back(begun)


def prelude(service: str, limits: Mapping[str, float], others: Mapping[str, str] | None = None) -> str:
    """The statements sent along with BEGIN: the tag, and how long the server may take.

    `limits` are server settings in seconds; the call's deadline shortens those on statements. They are
    repeated in every transaction because a pooler in between (PgBouncer) drops what the session was
    given at connect. Their cost cannot be measured. `others` are settings by name, as the URL has them; a
    list such as search_path is one text there, which only set_config() reads as one.
    """
    deadline = current_deadline()
    left = math.inf if deadline is None else time_left(deadline)
    shortened = {name: min(limits[name], left) for name in _ENDING_STATEMENTS}
    settings = {"application_name": quoted(application_name(service, current_tag()))}
    for name, limit in {**limits, **shortened}.items():
        settings[name] = str(milliseconds(limit))
    statements = [f"SET LOCAL {name} = {value}" for name, value in settings.items()]
    calls = (
        f"pg_catalog.set_config({quoted(name)}, {quoted(value)}, true)"
        for name, value in (others or {}).items()
    )
    if said := ", ".join(calls):
        statements.append(f"SELECT {said}")
    return "; ".join(statements)


async def confirm_reads(transaction: Transaction) -> None:
    """Have the COMMIT of this transaction wait for everything that it has read.

    Where a synchronous standby is configured, COMMIT waits for it, but only if the transaction has written
    something. One that has only read can see rows that no standby has: their own COMMIT was cut short, by a
    crash or by somebody who cancelled its wait. A handler that answers from such rows as if they were its
    own work - the replay of an idempotent request - calls this before it returns; then its answer leaves
    after the COMMIT, and that after all that came before it in the write-ahead log.

    It writes a message to the log, which takes one round trip, no privilege, and leaves no row. Raises
    asyncpg.ReadOnlySQLTransactionError on a replica, which cannot promise this.
    """
    await transaction.fetchval(_CONFIRM_READS)


def application_name(service: str, tag: str) -> str:
    """`service:tag`, as much of it as the server keeps, without what it would replace by `?`."""
    name = f"{service}:{tag}" if tag else service
    if not (name.isascii() and name.isprintable()):
        name = "".join(char if " " <= char <= "~" else "?" for char in name)
    return name[:_LONGEST_NAME]


async def _roll_back(begun: DriverTransaction) -> None:
    """Now, and not when the lease is returned, so that locks are free when the error is seen."""
    # What breaks the ROLLBACK has broken the session, and the pool disposes of both.
    with suppress(*_NO_ANSWER, asyncpg.PostgresError):
        async with asyncio.timeout(_patience(_ROLLBACK_PATIENCE)):
            await begun.rollback()


async def _read_last_words(lease: Lease) -> None:
    """If the server has said something that nobody has read, let the event loop read it: it may be that the
    session has ended, and a COMMIT sent after that would be of unknown outcome for nothing."""
    for _ in range(_TURNS_TO_READ):
        if lease.is_closed() or not lease.has_unread():
            return
        await asyncio.sleep(0)


def _check_that_it_can_commit(lease: Lease, begun: DriverTransaction) -> None:
    """What is raised here is certain: COMMIT has not been sent."""
    if lease.is_closed():
        raise StatementNotSent("the session ended before COMMIT was sent")
    if not lease.is_in_transaction():
        raise TransactionAborted("a statement inside had ended the transaction")
    deadline = current_deadline()
    if deadline is not None:
        time_left(deadline)
    if begun.failed:
        raise TransactionAborted("a savepoint inside could not be rolled back")


def _patience(limit: float) -> float:
    """Seconds: `limit`, or as many as the call's deadline leaves."""
    deadline = current_deadline()
    if deadline is None:
        return limit
    return min(limit, max(0.0, deadline - asyncio.get_running_loop().time()) + _GRACE)


async def _commit(lease: Lease, begun: DriverTransaction, patience: float, *, writes: bool) -> None:
    answer = asyncio.create_task(_ask_to_commit(lease, begun, patience), name="commit")
    cancelled = await _wait_although_cancelled(answer)
    error = answer.exception()
    if writes and isinstance(error, _NO_ANSWER) and not isinstance(error, StatementNotSent):
        raise CommitUnknown(f"COMMIT was sent and not confirmed: {error!r}") from error
    if cancelled is not None:
        raise cancelled
    if answer.result() != "COMMIT":
        raise TransactionAborted("COMMIT rolled back: a statement had failed and its error was swallowed")


async def _ask_to_commit(lease: Lease, begun: DriverTransaction, patience: float) -> str:
    """Send COMMIT and wait for its answer; cut the connection, without a cancel request, when it does not
    come within `patience` seconds."""
    cut = asyncio.get_running_loop().call_later(patience, lease.terminate)
    started = asyncio.get_running_loop().time()
    try:
        return await lease.commit(begun, timeout=_WITHOUT_CANCEL)
    except asyncio.CancelledError:
        lease.terminate()  # before asyncpg's cancel request is on its way
        raise
    except asyncpg.PostgresConnectionError as error:
        if asyncio.get_running_loop().time() - started >= patience:
            raise TimeoutError(f"no answer to COMMIT within {patience:.3g} s") from error
        raise
    finally:
        cut.cancel()


async def _wait_although_cancelled(answer: asyncio.Task[str]) -> asyncio.CancelledError | None:
    """Wait for an answer that is sure to come, because it has a timeout; a cancel in the meantime is
    given back to be raised afterwards. Cancelling the COMMIT would only make its outcome unknown.
    """
    cancelled = None
    while not answer.done():
        try:
            await asyncio.wait({answer})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled
