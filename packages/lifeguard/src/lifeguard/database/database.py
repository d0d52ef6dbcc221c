"""This service's databases: a pool on the primary and, where there is one, a pool on a replica."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self, TypeVar, cast

import structlog
from asyncpg import ReadOnlySQLTransactionError, Record

from lifeguard.database.breaker import Breaker
from lifeguard.database.connect_options import (
    Role,
    connect_options,
    dsn,
    pool_config,
    quoted,
    session_limits,
)
from lifeguard.database.deadlines import DeadlineConnection
from lifeguard.database.errors import DatabaseUnavailable, PoolOversized, WriteRefused
from lifeguard.database.guard import Guard
from lifeguard.database.reading import ReadingConnection
from lifeguard.database.replica import Replica
from lifeguard.database.retries import ATTEMPTS, retry_idempotent
from lifeguard.database.scope import call_scope, current_deadline, current_tag, time_left, within_deadline
from lifeguard.database.sizing import fit
from lifeguard.database.transactions import application_name, prelude, transaction
from lifeguard.database.types import Connection, Isolation, ReadConnection, Transaction
from lifeguard.pool import DrainReport, Lease, Pool, PoolClosing, PoolEvent, PoolUnavailable, Priority
from lifeguard.settings import Settings

T = TypeVar("T")

# Seconds that the start waits for the server's word on the pools' sizes.
_SIZING_PATIENCE = 1.0

_log = structlog.get_logger("lifeguard.database")


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
    ) -> None:
        """`name`: of a database besides the service's own, to tell their pools apart in the log. With
        `reports` they are `reports` and `reports-replica`, not `primary` and `replica`.

        `lane` and `priority` are those of what belongs to no call, or to one that names none.
        """
        self._settings = settings
        self._name = name
        self._lane = lane
        self._priority = priority
        self._on_event = on_event
        self._limits = session_limits(settings)
        self._primary = Guard(partial(self._make_pool, "primary"), settings, on_event)
        self._replica = self._guarded_replica() if settings.database_replica_url else None
        self.primary = self._primary.pool
        self.replica = self._replica.pool if self._replica else None
        self._replica_serves = True
        self.reads: Counter[str] = Counter()
        """How many reads each pool has served, by its name."""
        self._sizing: asyncio.Task[None] | None = None
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
        if self._replica:
            self._replica.lag.start(self._note_replica)
        self._sizing = asyncio.create_task(self._size_pools(), name="pool sizing")
        await asyncio.wait({self._sizing}, timeout=_SIZING_PATIENCE)
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

    @asynccontextmanager
    async def read(
        self, *, lane: Hashable | None = None, priority: Priority | None = None
    ) -> AsyncIterator[ReadConnection]:
        """A connection to read from.

        With a replica, what was just written may not be there yet: read it where it was written, in
        `connection()` or in the transaction. Without one that serves, the primary is read.

        Raises WriteRefused for a statement that writes, before it is sent; what a function
        of one's own writes inside is seen by a replica only.
        """
        async with AsyncExitStack() as stack:
            guard, lease = await self._lend_for_reading(stack, lane, priority)
            self.reads[guard.pool.name] += 1
            await self._tag(lease)
            try:
                yield ReadingConnection(self._bounded(lease))
            except ReadOnlySQLTransactionError as error:
                if lease.was_refused_to_write:  # and not another one that was used meanwhile
                    raise WriteRefused(f"a ReadConnection only reads: {error}") from error
                raise

    @asynccontextmanager
    async def connection(
        self, *, lane: Hashable | None = None, priority: Priority | None = None
    ) -> AsyncIterator[Connection]:
        """A connection to the primary; every statement commits by itself."""
        async with self._lend(self._primary, lane, priority) as lease:
            await self._tag(lease)
            yield self._bounded(lease)

    @asynccontextmanager
    async def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        deferrable: bool = False,
        lane: Hashable | None = None,
        priority: Priority | None = None,
    ) -> AsyncIterator[Transaction]:
        """A transaction on the primary: committed at the end of the block, undone if it raises.

        `isolation` None is the server's default, read committed. Raises CommitUnknown when the answer
        to COMMIT is lost, TransactionAborted when the block swallowed an error of the server.
        """
        async with (
            self._lend(self._primary, lane, priority) as lease,
            transaction(
                lease,
                prelude=prelude(self._settings.service_name, self._limits),
                command_timeout=self._settings.command_timeout,
                isolation=isolation,
                read_only=read_only,
                deferrable=deferrable,
            ),
        ):
            yield self._bounded(lease)

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

        return await retry_idempotent(attempt, attempts=attempts)

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

    @property
    def guards(self) -> tuple[Guard, ...]:
        """Each pool with its breaker, the primary first."""
        return (self._primary, self._replica) if self._replica else (self._primary,)

    @property
    def breaker(self) -> Breaker:
        """The primary's."""
        return self._primary.breaker

    @property
    def replica_obstacle(self) -> str:
        """Why reads go to the primary although there is a replica, without any numbers; else empty."""
        return self._replica.obstacle if self._replica else ""

    def set_lane(
        self, lane: Hashable, *, at_most: int | None = None, at_least: int = 0, weight: float = 1.0
    ) -> None:
        """Limit a lane, in each pool for itself: `Pool.set_lane()`, which says what it raises."""
        for guard in self.guards:
            guard.pool.set_lane(lane, at_most=at_most, at_least=at_least, weight=weight)

    def guard_of(self, *, reads_only: bool) -> Guard:
        """The one that a call will most likely need."""
        if reads_only and self._replica and self._replica.serves:
            return self._replica
        return self._primary

    def _pools(self) -> list[Pool]:
        return [guard.pool for guard in self.guards]

    def _guarded_replica(self) -> Replica:
        make_pool = partial(self._make_pool, "replica")
        return Replica(make_pool, self._settings, self._on_event, primary=self._primary.pool)

    def _make_pool(self, role: Role, on_event: Callable[[PoolEvent], None]) -> Pool:
        settings = self._settings
        config = pool_config(settings, role)
        if self._name:
            config = replace(config, name=self._name if role == "primary" else f"{self._name}-{role}")
        return Pool.from_config(
            config,
            dsn(settings, role),
            on_event=on_event,
            **connect_options(settings, role),
        )

    def _lend(
        self, guard: Guard, lane: Hashable | None, priority: Priority | None
    ) -> AbstractAsyncContextManager[Lease]:
        """The one place where this service borrows connections."""
        deadline = None
        if (call := call_scope.get()) is not None:
            deadline = call.deadline
            lane = call.lane if lane is None else lane
            priority = priority or call.priority
        timeout = self._settings.pool_acquire_timeout
        if deadline is not None:
            timeout = min(timeout, time_left(deadline))
        return guard.lend(timeout, self._lane if lane is None else lane, priority or self._priority)

    async def _lend_for_reading(
        self, stack: AsyncExitStack, lane: Hashable | None, priority: Priority | None
    ) -> tuple[Guard, Lease]:
        """From the replica unless it is out of service, too far behind or asleep: no read waits for a
        replica that is known not to serve."""
        replica = self._replica
        if replica is not None and replica.serves:
            try:
                lease = await stack.enter_async_context(self._lend(replica, lane, priority))
            except (PoolUnavailable, DatabaseUnavailable) as error:
                self._note_replica(str(error))
            else:
                self._note_replica()
                return replica, lease
        elif replica is not None:
            self._note_replica()
            replica.wake()  # it may serve those who come later
        return self._primary, await stack.enter_async_context(self._lend(self._primary, lane, priority))

    def _note_replica(self, reason: str = "") -> None:
        """Tell once that the replica serves no more, or again."""
        assert self._replica is not None
        reason = self._replica.obstacle or reason
        if reason and self._replica_serves:
            self._replica_serves = False
            _log.warning("replica_out_of_service", reason=reason, reads="primary", **self._replica_lag())
        elif not self._replica_serves and self._replica.serves and not reason:
            self._replica_serves = True
            _log.info("replica_serves_again")

    def _replica_lag(self) -> dict[str, float]:
        """What the log says of it: seconds and bytes."""
        assert self._replica is not None
        lag = self._replica.lag.lag
        return {} if lag is None else {"lag_seconds": round(lag.seconds, 3), "lag_bytes": lag.size}

    async def _tag(self, lease: Lease) -> None:
        """Let the server show whose statements come now, if TAG_STATEMENTS is on. The pool sees the SET and
        resets the session when it is returned."""
        if self._settings.tag_statements and (tag := current_tag()):
            name = quoted(application_name(self._settings.service_name, tag))
            await within_deadline(lease.execute(f"SET application_name = {name}"))

    def _bounded(self, lease: Lease) -> Transaction:
        """The lease, or what ends its statements with the call. Callers narrow the type."""
        deadline = current_deadline()
        if deadline is None:
            return cast("Transaction", lease)
        bounded = DeadlineConnection(lease, deadline, self._settings.command_timeout)
        return cast("Transaction", bounded)

    async def _size_pools(self) -> None:
        try:
            for pool in self._pools():
                await fit(pool, self._settings)
        except PoolOversized as error:
            self.oversized = error
            _log.error("pool_oversized", reason=str(error))
        except PoolClosing:
            return

    async def _stop_watching(self) -> None:
        for guard in self.guards:
            await guard.stop()
        if self._sizing is not None:
            self._sizing.cancel()
            await asyncio.wait({self._sizing})
