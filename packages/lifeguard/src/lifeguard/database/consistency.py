"""Reads that see a write: where writes are is noted, and a read goes to a replica that has replayed it.

Such a read goes, in this order,

1. to a replica that is known to have replayed the write, or else to any that is read, where that is asked
   on the connection that is lent: one round trip more;
2. after a wait of `CONSISTENCY_WAIT` at most, to the first that has replayed it;
3. to the primary. At once where the write's server could not say where it is, or where all replicas are known
   to be further behind than the wait is long.

A position that the primary has not reached itself is of nothing that exists: of what was lost in a failover,
or of a database that was restored. Such a read neither waits nor goes to the primary; it is served as if it
had come without.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from enum import Enum
from time import monotonic, time

import asyncpg
import structlog

from lifeguard.database.aside import CANNOT_TELL, NO_ANSWER
from lifeguard.database.errors import DatabaseUnavailable
from lifeguard.database.position import (
    FIRST_TIMELINE,
    NO_PRIMARY,
    Position,
    ask_written,
    has_replayed,
    unknown,
)
from lifeguard.database.replica import Replica
from lifeguard.database.replicas import Replicas
from lifeguard.database.scope import CallScope, call_scope, current_deadline, time_left
from lifeguard.database.tokens import Tokens
from lifeguard.database.transactions import reading_transaction
from lifeguard.database.wal import Written
from lifeguard.pool import Lease, PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.settings import Settings

# Seconds for an answer about a place, which no statement of anybody's own is worth waiting longer for.
_PATIENCE = 1.0
# How often a replica that has said that it has replayed the position may turn out not to have: it was another
# server behind the same name.
_TRIES = 3
# Seconds between two log lines about the same.
_REPORT_INTERVAL = 60.0

_IDENTIFIER = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"

_log = structlog.get_logger("lifeguard.database")


OUTCOMES = ("replica", "waited", "primary", "lost")
"""What becomes of a read that has to see a write."""
Lend = Callable[[Replica], AbstractAsyncContextManager[Lease]]


class Elsewhere(Enum):
    """Where a read goes that no replica is chosen for."""

    ANYWHERE = "anywhere"


class Consistency:
    """Of one database. Without replicas there is nothing to do: every read sees every write."""

    def __init__(
        self, settings: Settings, name: str | None, replicas: Replicas, prelude: Callable[[Replica], str]
    ) -> None:
        """`prelude` gives what comes with BEGIN at a replica."""
        self._replicas = replicas
        self._prelude = prelude
        self._wait = settings.consistency_wait
        self.ttl = settings.consistency_ttl + settings.replica_max_lag
        """Seconds after which any replica that is read has a write."""
        self._tokens = Tokens(
            settings.consistency_secrets, service=settings.service_name, database=name or ""
        )
        self._reported: dict[str, float] = {}
        self.reads: Counter[str] = Counter()
        """How many reads with a position went to a `replica`, to one after they had `waited`, to the
        `primary`, or had a position that was `lost`."""

    # -- writes ------------------------------------------------------------------------------------

    async def note_written(self, lease: Lease) -> None:
        """Note in the call's scope where the writes are that the lease's session has committed.

        Raises nothing: they are committed. If their place cannot be had, the primary is known to have them.
        """
        call = call_scope.get()
        if not self._replicas.all or call is None or not call.notes_writes:
            return
        call.written = unknown()  # also if this is cancelled
        try:
            timeout = _time_for_question()
            if not self._knows_key():
                await self._learn(lease, timeout)
            lease.pin()  # another session may be at another server
            call.written = await ask_written(lease, timeout)
        except (*CANNOT_TELL, NO_PRIMARY) as error:
            self._report("consistency_not_measured", error)
        except (asyncpg.InternalClientError, *NO_ANSWER) as error:
            _log.debug("consistency_not_asked", reason=str(error))

    async def _learn(self, lease: Lease, timeout: float) -> None:
        """Learn the key of the tokens from the server, where the settings have none."""
        try:
            self._tokens.learn(await lease.fetchval(_IDENTIFIER, timeout=timeout))
        except CANNOT_TELL as error:
            self._tokens.learn("")
            self._report("consistency_tokens_unsigned", error)

    def _knows_key(self) -> bool:
        """Whether it is known by now: what measures the replicas has asked the primary for it, too."""
        primary = self._replicas.primary
        if not self._tokens.has_key and primary.system is not None:
            self._tokens.learn(str(primary.system))
        return self._tokens.has_key

    # -- tokens ------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        """How many reads had each outcome, those that none had included; nothing without replicas."""
        return {outcome: self.reads[outcome] for outcome in OUTCOMES} if self.is_needed else {}

    @property
    def is_needed(self) -> bool:
        """Whether a read may miss a write."""
        return bool(self._replicas.all)

    def token(self, call: CallScope | None) -> str | None:
        """That of what a call has written last; None if there is none."""
        if call is None or call.written is None or not self._tokens.has_key:
            return None
        return self._tokens.write(call.written)

    def position(self, token: str) -> Position | None:
        """What a token says. None if it is so old that whatever replica is read has replayed it.

        Raises InvalidToken. Before the key is known no token can be told from another: the primary serves.
        """
        if not self._replicas.all:
            return None
        if not self._knows_key():
            return unknown()
        position = self._tokens.read(token)
        return None if time() - position.noted_at > self.ttl else position

    def latest(self, token: str | None) -> Position | None:
        """What a read has to see: the write of `token`, that of the call's client, and the call's own."""
        call = call_scope.get()
        said = None if token is None else self.position(token)
        wanted = [said, call.after, call.written] if call and self._replicas.all else [said]
        return max((one for one in wanted if one is not None), key=_order, default=None)

    # -- reads -------------------------------------------------------------------------------------

    async def lend(
        self,
        stack: AsyncExitStack,
        position: Position,
        lend: Lend,
    ) -> tuple[Replica, Lease] | Elsewhere | None:
        """A replica's lease that sees the write at `position`, returned with `stack`; None if the primary has
        to be read. ANYWHERE where there is no such write."""
        found, outcome = await self._find(stack, position, lend)
        self.reads[outcome] += 1
        return found

    async def _find(
        self,
        stack: AsyncExitStack,
        position: Position,
        lend: Lend,
    ) -> tuple[tuple[Replica, Lease] | Elsewhere | None, str]:
        if self._replicas.choose() is None:
            self._replicas.note_all()
            self._replicas.wake()  # they may serve those who come later
            return None, "primary"
        if not position.is_known:
            return None, "primary"
        replica = self._known_to_have(position)
        is_far_behind = replica is None and self._is_far_behind(position)
        replica = replica or (None if is_far_behind else self._replicas.choose())
        if replica and (lease := await self._lend_behind(stack, position, replica, lend)):
            return (replica, lease), "replica"
        if await self._does_not_exist(position):
            return Elsewhere.ANYWHERE, "lost"
        until = asyncio.get_running_loop().time() + self._patience()
        for _ in range(0 if is_far_behind else _TRIES):
            replica = await self._first_to_have(position, until)
            if replica is None:
                break
            if lease := await self._lend_behind(stack, position, replica, lend):
                return (replica, lease), "waited"
        return None, "primary"

    async def _lend_behind(
        self,
        stack: AsyncExitStack,
        position: Position,
        replica: Replica,
        lend: Lend,
    ) -> Lease | None:
        """A lease of the replica if its session sees the write at `position`; else it is returned at once.

        Through a pooler the lease is in a transaction: the next one may be at another server."""
        try:
            async with AsyncExitStack() as borrowed:
                lease = await borrowed.enter_async_context(lend(replica))
                lease.pin()  # what is asked now holds for this session only
                if replica.pool.pooler is not None:  # to which each transaction may have a session of its own
                    await borrowed.enter_async_context(reading_transaction(lease, self._prelude(replica)))
                if not await has_replayed(lease, position, _time_for_question()):
                    return None
                stack.push_async_exit(borrowed.pop_all())
                return lease
        except (PoolSaturated, PoolTimeout):
            if await replica.answers():
                raise  # it is busy, and its load would be too much for the others, too
            return None
        except (PoolUnavailable, DatabaseUnavailable, asyncpg.PostgresError, TimeoutError) as error:
            _log.debug("consistency_not_asked", pool=replica.pool.name, reason=str(error))
            return None

    def _known_to_have(self, position: Position) -> Replica | None:
        replica = self._replicas.choose(after=position.lsn)
        return replica if replica is not None and _follows(replica, position) else None

    def _is_far_behind(self, position: Position) -> bool:
        """Whether no replica will have replayed it before the wait is over, as far as is known."""
        lags = [
            replica.lag.lag.seconds if replica.lag.lag else 0.0
            for replica in self._replicas.all
            if replica.serves
        ]
        age = max(0.0, time() - position.noted_at)
        return min(lags, default=0.0) - age > self._wait

    def _patience(self) -> float:
        """Seconds to wait: at most half of what the call has left, the other half is the primary's."""
        deadline = current_deadline()
        return self._wait if deadline is None else min(self._wait, time_left(deadline) / 2)

    async def _first_to_have(self, position: Position, until: float) -> Replica | None:
        awaited = {
            replica.lag.replayed(position.lsn): replica
            for replica in self._replicas.all
            if replica.serves and replica.replayed_lsn >= 0 and _follows(replica, position)
        }
        if not awaited:
            return None
        try:
            left = until - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait(awaited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in awaited:
                future.cancel()
        return awaited[done.pop()] if done else None

    async def _does_not_exist(self, position: Position) -> bool:
        """Whether the primary itself has not come so far. It is asked if what is known of it is older."""
        primary = self._replicas.primary
        if not _is_past(position, primary.written):
            return False
        written = await primary.written_now()
        if written is None or not _is_past(position, written):
            return False
        self._report("consistency_position_lost")
        return True

    def _report(self, event: str, error: Exception | None = None) -> None:
        now = monotonic()
        if now - self._reported.get(event, -_REPORT_INTERVAL) >= _REPORT_INTERVAL:
            self._reported[event] = now
            _log.warning(event, **({"reason": str(error)} if error else {}))


def _order(position: Position) -> tuple[bool, int, int]:
    """The one of which no place is known comes last: it asks for the primary."""
    return not position.is_known, position.timeline, position.lsn


def _follows(replica: Replica, position: Position) -> bool:
    """Whether a replica has come to the timeline of the position, as far as it says."""
    return max(replica.timeline, FIRST_TIMELINE) >= position.timeline


def _is_past(position: Position, written: Written | None) -> bool:
    """Whether a server that has written so far does not have the position; True too while that is not known.

    One of a later timeline may be of a primary that this process has not heard of yet.
    """
    if written is None:
        return True
    return position.timeline <= (written.timeline or FIRST_TIMELINE) and position.lsn > written.lsn


def _time_for_question() -> float:
    """Seconds. Raises DeadlineExceeded when the call has none left."""
    deadline = current_deadline()
    return _PATIENCE if deadline is None else min(_PATIENCE, time_left(deadline))
