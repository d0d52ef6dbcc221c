"""What `Database.read()`, `connection()` and `transaction()` give: blocks that hold a connection.

They are classes and not generators: a request would enter and leave three generators in each other for the
one connection that it borrows.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType

from asyncpg import ReadOnlySQLTransactionError
from typing_extensions import override

from lifeguard.database.errors import DatabaseUnavailable, WriteRefused
from lifeguard.database.guard import Lent
from lifeguard.database.lender import Lender
from lifeguard.database.reading import ReadingConnection, ReplicaReading
from lifeguard.database.replica import Replica
from lifeguard.database.transactions import TransactionBlock
from lifeguard.database.types import Connection, Isolation, ReadConnection, Transaction
from lifeguard.pool import Lease, Priority


class _Block:
    """A lease of the primary's for a block. Each object is entered once."""

    __slots__ = ("_lane", "_lease", "_lender", "_lent", "_priority")

    _lease: Lease
    _lent: Lent

    def __init__(self, lender: Lender, lane: Hashable | None, priority: Priority | None) -> None:
        self._lender = lender
        self._lane = lane
        self._priority = priority

    async def _borrow(self, *, replaces: bool = False) -> Lease:
        lender = self._lender
        self._lent = lent = lender.lend(lender.primary, self._lane, self._priority, replaces=replaces)
        self._lease = lease = await lent.__aenter__()
        return lease

    async def _give_back(self, error: BaseException | None) -> None:
        """Return the lease, because of `error` if there is one, which the caller raises. Raises an error that
        says the same more clearly, if there is one."""
        await _leave(self._lent, error)


class ConnectionBlock(_Block):
    """A connection to the primary; every statement commits by itself."""

    __slots__ = ()

    async def __aenter__(self) -> Connection:
        lender = self._lender
        lease = await self._borrow()
        try:
            await lender.tag(lease, lender.primary)
            return lender.bounded(lender.single(lease, lender.primary))
        except BaseException as error:
            await self._give_back(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        consistency = self._lender.consistency
        # Also after an error: what came before it has committed.
        if consistency.is_needed and (error is None or isinstance(error, Exception)):
            try:
                await consistency.note_written(self._lease)
            except BaseException as later:
                await self._give_back(later)
                raise
        await self._give_back(error)


class WholeTransaction(_Block):
    """A connection to the primary in a transaction, which ends with the block."""

    __slots__ = ("_begun", "_options")

    _begun: TransactionBlock

    def __init__(
        self,
        lender: Lender,
        lane: Hashable | None,
        priority: Priority | None,
        options: tuple[Isolation | None, bool, bool],
    ) -> None:
        """`options`: its isolation, whether it is read only, whether it is deferrable."""
        super().__init__(lender, lane, priority)
        self._options = options

    async def __aenter__(self) -> Transaction:
        lender = self._lender
        isolation, read_only, deferrable = self._options
        lease = await self._borrow()
        try:
            self._begun = begun = TransactionBlock(
                lease,
                prelude=lender.prelude(lender.primary),
                command_timeout=lender.command_timeout,
                isolation=isolation,
                read_only=read_only,
                deferrable=deferrable,
            )
            await begun.__aenter__()
            return lender.bounded(lease)
        except BaseException as error:
            await self._give_back(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        consistency = self._lender.consistency
        try:
            await self._begun.__aexit__(kind, error, trace)
            if error is None and consistency.is_needed and not self._options[1]:
                await consistency.note_written(self._lease)
        except BaseException as later:
            await self._give_back(later)
            raise
        await self._give_back(error)


class PrimaryReadBlock(_Block):
    """A connection to read from, where there are no replicas."""

    __slots__ = ()

    async def __aenter__(self) -> ReadConnection:
        lender = self._lender
        lease = await self._borrow()
        lender.reads[lender.primary.pool.name] += 1
        try:
            await lender.tag(lease, lender.primary)
            lease.promise_to_read()
            return ReadingConnection(lender.bounded(lender.single(lease, lender.primary)))
        except BaseException as error:
            await self._give_back(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if refused := _refused(error, self._lease):
            await self._give_back(refused)
            raise refused from error
        await self._give_back(error)


class ReadBlock(PrimaryReadBlock):
    """A connection to read from, a replica's where one serves."""

    __slots__ = ("_after", "_at_primary", "_at_replica")

    def __init__(
        self, lender: Lender, after: str | None, lane: Hashable | None, priority: Priority | None
    ) -> None:
        """`after` is a token: what is read has that write."""
        super().__init__(lender, lane, priority)
        self._after = after
        self._at_primary = AsyncExitStack()
        self._at_replica = AsyncExitStack()

    @override
    async def __aenter__(self) -> ReadConnection:
        lender = self._lender
        try:
            lend = partial(lender.lend, lane=self._lane, priority=self._priority)
            position = lender.consistency.latest(self._after)
            replica, lease = await lender.readings.lend(self._at_replica, lend, position)
            if replica is None or lease is None:
                return ReadingConnection(await self._read_instead())
            self._lease = lease
            lender.reads[replica.pool.name] += 1
            lender.replicas.note_served(replica)
            await lender.tag(lease, replica)
            lease.promise_to_read()
            session = lender.bounded(lender.single(lease, replica))
            return ReplicaReading(session, replica, partial(self._go_to_primary, replica))
        except BaseException as error:
            await self._give_back(error)
            raise

    @override
    async def _give_back(self, error: BaseException | None) -> None:
        """The replica's first."""
        try:
            await _leave(self._at_replica, error)
        except BaseException as later:
            await _leave(self._at_primary, later)
            raise
        await _leave(self._at_primary, error)

    async def _read_instead(self) -> ReadConnection:
        """By the primary, in a lane of its own."""
        lender = self._lender
        primary = lender.primary
        lent = lender.lend(primary, self._lane, self._priority, replaces=True)
        self._lease = lease = await self._at_primary.enter_async_context(lent)
        lender.reads[primary.pool.name] += 1
        await lender.tag(lease, primary)
        lease.promise_to_read()
        return lender.bounded(lender.single(lease, primary))

    async def _go_to_primary(self, replica: Replica, error: Exception) -> ReadConnection:
        with suppress(DatabaseUnavailable):  # which its breaker has to know
            await _leave(self._at_replica, error)
        self._lender.replicas.note_repeated(replica, error)
        return await self._read_instead()


def _refused(error: BaseException | None, lease: Lease) -> WriteRefused | None:
    """The error of a statement that the lease's session has refused, and not another one's that was used
    meanwhile."""
    if isinstance(error, ReadOnlySQLTransactionError) and lease.was_refused_to_write:
        return WriteRefused(f"a ReadConnection only reads: {error}")
    return None


async def _leave(block: Lent | AsyncExitStack, error: BaseException | None) -> None:
    if error is None:
        await block.__aexit__(None, None, None)
    else:
        await block.__aexit__(type(error), error, error.__traceback__)
