"""This service's databases: a pool on the primary and, where there are some, one on each replica."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar

from asyncpg import Record

from lifeguard.database.blocks import ConnectionBlock, PrimaryReadBlock, ReadBlock, WholeTransaction
from lifeguard.database.breaker import Breaker
from lifeguard.database.errors import PoolOversized
from lifeguard.database.guard import Guard
from lifeguard.database.lender import Lender
from lifeguard.database.passwords import PasswordHook, PasswordSource
from lifeguard.database.pools import primary_maker, replica_makers
from lifeguard.database.replicas import Replicas, lane_instead
from lifeguard.database.retries import ATTEMPTS, retry_idempotent
from lifeguard.database.scope import call_scope
from lifeguard.database.sizes import Sizes, of_this_process
from lifeguard.database.types import Connection, Isolation, ReadConnection, Transaction
from lifeguard.pool import (
    DrainReport,
    Pool,
    PoolEvent,
    Priority,
)
from lifeguard.settings import Settings

T = TypeVar("T")


class Database:
    """Gives endpoints, background tasks and scripts their connections and transactions.

    async with database.read() as connection:           a replica if there is one, else the primary
    async with database.connection() as connection:     the primary, each statement for itself
    async with database.transaction() as transaction:   the primary, all or nothing
    await database.run_in_transaction(work)             the same, repeated where that is safe
    await database.fetch(...), execute(...), ...        one statement

    All follow the tag and the deadline of `call_scope`, and its lane and priority where they are given none.
    They raise the pool's errors when no connection is available in time, and DatabaseUnavailable when it is
    lost.

    A script or a job opens and closes it by `async with Database(settings) as database:`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        name: str | None = None,
        on_event: Callable[[PoolEvent], None] | None = None,
        lane: Hashable | None = None,
        priority: Priority = "normal",
        password: PasswordHook | None = None,
    ) -> None:
        """`name`: of a database besides the service's own, to tell their pools apart in the log. With
        `reports` they are `reports` and `reports-replica`, not `primary` and `replica`. Of several replicas
        the pools are numbered: `replica-1`, `replica-2`.

        `lane` and `priority` are those of what belongs to no call, or to one that names none. `password` is
        asked for the passwords of this database in place of `Settings.password_for()`, variables and URL.
        """
        alone = settings
        settings = of_this_process(settings)
        self._settings = settings
        self._on_event = on_event
        passwords = PasswordSource(settings, password)
        self._primary = Guard(primary_maker(settings, name, passwords), settings, on_event)
        self.primary = self._primary.pool
        self._replicas = Replicas(settings, self.primary, replica_makers(settings, name, passwords), on_event)
        self._lender = Lender(
            settings, alone, name, self._primary, self._replicas, lane=lane, priority=priority
        )
        self.consistency = self._lender.consistency
        self.replica = self._replicas.all[0].pool if self._replicas.all else None
        """The first one's."""
        self._sizes = Sizes(self.guards, settings, self._refuse_to_serve)
        self.oversized: PoolOversized | None = None
        """Why the service must not serve although the database answers."""

    async def open(self) -> None:
        """Open the pools. A server that is not there is no error; the pools go on trying.

        Raises PoolOversized when the server says at once that it has too few sessions for all
        instances. A server that says so later has `oversized` set.
        """
        for guard in self.guards:
            await guard.pool.open()
            guard.lane_watch.start()
        self._replicas.start()
        await self._sizes.start()
        if self.oversized:
            raise self.oversized

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def drain(self, timeout: float) -> list[DrainReport]:
        """Refuse new borrowers, wait `timeout` seconds for the others, close."""
        await self._stop_watching()
        return await asyncio.gather(*(pool.drain(timeout) for pool in self._pools()))

    async def close(self) -> None:
        """Close the pools, waiting for borrowers as `Pool.close()` does."""
        await self._stop_watching()
        await asyncio.gather(*(pool.close() for pool in self._pools()))

    def read(
        self, *, after: str | None = None, lane: Hashable | None = None, priority: Priority | None = None
    ) -> AbstractAsyncContextManager[ReadConnection]:
        """A connection to read from.

        With a replica, what others have just written may not be there yet; what this call has written is, and
        what its client's token or `after` stands for (docs/read-your-writes.md). Without one that serves, the
        primary is read. A statement that a replica cancels (a recovery conflict) is repeated on the primary,
        where the rest of the block goes, too.

        Raises WriteRefused for a statement that writes, before it is sent; what a function of one's own
        writes inside is seen by a replica only. Raises InvalidToken for an `after` that is no token.
        """
        if not self._replicas.all:
            return PrimaryReadBlock(self._lender, lane, priority)
        return ReadBlock(self._lender, after, lane, priority)

    def connection(
        self, *, lane: Hashable | None = None, priority: Priority | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """A connection to the primary; every statement commits by itself."""
        return ConnectionBlock(self._lender, lane, priority)

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        lane: Hashable | None = None,
        priority: Priority | None = None,
    ) -> AbstractAsyncContextManager[Transaction]:
        """A transaction on the primary: committed at the end of the block, undone if it raises.

        `isolation` None is the server's default, read committed. Raises CommitUnknown when the answer
        to COMMIT is lost, TransactionAborted when the block swallowed an error of the server.
        """
        return WholeTransaction(self._lender, lane, priority, (isolation, read_only, deferrable))

    async def run_in_transaction(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        isolation: Isolation | None = None,
        attempts: int = ATTEMPTS,
        lane: Hashable | None = None,
        priority: Priority | None = None,
    ) -> T:
        """Run `work` in a transaction and give its result once that is committed.

        What leaves nothing behind and may not come again has it run again: conflicts, a session lost
        before COMMIT was sent, a server that has become read-only, a changed schema (docs/architecture.md
        has the table). `attempts` times in all and within the call's deadline, on any connection: `work`
        must have no effect outside of its transaction.
        """

        async def attempt() -> T:
            async with self.transaction(isolation=isolation, lane=lane, priority=priority) as transaction:
                return await work(transaction)

        patience = self._settings.pool_outage_patience
        return await retry_idempotent(attempt, attempts=attempts, patience=patience)

    # One statement on a connection borrowed for it. `read=True` is `read()`: a replica if there is one that
    # serves. Otherwise the primary, for a `fetchrow()` may well be an INSERT with RETURNING.

    async def fetch(self, query: str, *args: object, read: bool = False) -> list[Record]:
        """The rows of one statement, with the call's deadline and behind the breaker."""
        async with self._any(read=read) as connection:
            return await connection.fetch(query, *args)

    async def fetchrow(self, query: str, *args: object, read: bool = False) -> Record | None:
        """The first row, if there is one."""
        async with self._any(read=read) as connection:
            return await connection.fetchrow(query, *args)

    # Any: as `ReadConnection.fetchval()`.
    async def fetchval(self, query: str, *args: object, column: int = 0, read: bool = False) -> Any:
        """One column of the first row; None if there is no row."""
        async with self._any(read=read) as connection:
            return await connection.fetchval(query, *args, column=column)

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement on the primary; what the server calls it, such as `UPDATE 1`."""
        async with self.connection() as connection:
            return await connection.execute(query, *args)

    def _any(self, *, read: bool) -> AbstractAsyncContextManager[ReadConnection]:
        return self.read() if read else self.connection()

    def token(self) -> str | None:
        """That of what this call (`call_scope`) has written last, for `read(after=...)` in any process. None
        if it has written nothing, and without replicas."""
        return self.consistency.token(call_scope.get())

    @property
    def guards(self) -> tuple[Guard, ...]:
        """Each pool with its breaker, the primary first."""
        return (self._primary, *self._replicas.all)

    @property
    def reads(self) -> Counter[str]:
        """How many reads each pool has served, by its name."""
        return self._lender.reads

    @property
    def breaker(self) -> Breaker:
        """The primary's."""
        return self._primary.breaker

    def _refuse_to_serve(self, why: PoolOversized) -> None:
        self.oversized = why

    @property
    def replica_obstacles(self) -> dict[str, str]:
        """Why a replica is not read, without any numbers, for each that is not, by the name of its pool."""
        return self._replicas.obstacles

    def set_lane(
        self, lane: Hashable, *, at_most: int | None = None, at_least: int = 0, weight: float = 1.0
    ) -> None:
        """Limit a lane, in each pool for itself: `Pool.set_lane()`, which says what it raises.

        Its reads that no replica serves are a lane of the primary's pool with the same limits, but that
        nothing is kept for them.
        """
        for guard in self.guards:
            guard.pool.set_lane(lane, at_most=at_most, at_least=at_least, weight=weight)
        if self._replicas.all and lane is not None:
            self.primary.set_lane(lane_instead(lane), at_most=at_most, at_least=0, weight=weight)

    def guard_of(self, *, reads_only: bool) -> Guard:
        """The one that a call will most likely need."""
        return (reads_only and self._replicas.choose()) or self._primary

    def lane_at(self, guard: Guard, lane: Hashable | None, *, reads_only: bool) -> Hashable | None:
        """The lane in which such a call of `lane` borrows there."""
        reads_instead = reads_only and self._replicas.all and guard is self._primary
        return lane_instead(lane) if reads_instead else lane

    def _pools(self) -> list[Pool]:
        return [guard.pool for guard in self.guards]

    async def _stop_watching(self) -> None:
        await self._replicas.stop()
        for guard in self.guards:
            await guard.stop()
        await self._sizes.stop()
