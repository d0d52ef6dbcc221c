"""One replica's pool, which serves while the replica is not too far behind."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic
from types import TracebackType

from typing_extensions import override

from lifeguard.database.errors import DeadlineExceeded
from lifeguard.database.guard import Guard, Lent, PoolMaker
from lifeguard.database.lag import LagWatch
from lifeguard.database.scope import within_deadline
from lifeguard.database.wal import PrimaryWatch
from lifeguard.pool import Lease, PoolEvent, Priority
from lifeguard.settings import Settings


class Replica(Guard):
    """Lends connections to one replica, and knows whether it is to be read."""

    def __init__(
        self,
        make_pool: PoolMaker,
        settings: Settings,
        on_event: Callable[[PoolEvent], None] | None,
        *,
        primary: PrimaryWatch,
        is_one_of_several: bool = False,
        host: str = "",
    ) -> None:
        super().__init__(make_pool, settings, on_event)
        self.host = host
        """Where it is, with its port: what its URL says."""
        self.lag = LagWatch(settings, self.pool, primary, is_one_of_several=is_one_of_several)
        self.outage_patience = settings.pool_outage_patience
        """Seconds: POOL_OUTAGE_PATIENCE, which no queue of its own waits."""
        self.loans = 0
        """How many borrow from it now, those that wait for a connection included."""
        self.chosen_at = 0.0
        """When it was last borrowed from, in seconds of the monotonic clock."""
        self.repeated = 0
        """How many reads it has cancelled (recovery conflicts), or left unanswered, that the primary
        answered."""
        self._lent: set[Lease] = set()

    @property
    @override
    def serves(self) -> bool:
        return super().serves and self.lag.allows_reading

    @property
    def replayed_lsn(self) -> int:
        """Where in the WAL its replay was when it was last asked, in bytes since the WAL's beginning; -1
        while that is not known. Replay does not go back."""
        return self.lag.replayed_lsn

    @property
    def timeline(self) -> int:
        """The timeline of the WAL that it replays, or an earlier one: for up to a checkpoint's time after a
        failover, where its role may not see what the receiver does (`pg_read_all_stats`). 0: not known."""
        return self.lag.timeline

    @property
    def obstacle(self) -> str:
        """Why it is not read. Empty while it is read, and while that is not known: no connection was needed
        yet, or the servers have not been asked yet."""
        if super().serves or self.sleeps:
            return self.lag.reason
        stats = self.pool.stats()
        nothing_is_known = self.lag.standing == "unknown" and stats.last_error is None and not stats.opened
        return "" if nothing_is_known else "there is no connection to it"

    @property
    def may_be_left(self) -> bool:
        """Whether who reads there has to go elsewhere, and can: it is frozen, and nothing was written
        there."""
        return self.lag.is_frozen and self.lag.was_standby

    async def answers(self) -> bool:
        """Whether it answers, as far as the current call has time to find out."""
        try:
            return await within_deadline(self.lag.answers())
        except DeadlineExceeded:
            return True

    @override
    def may_shed(self, lane: Hashable | None) -> bool:
        """Not while it may be frozen: somebody waits for a connection, or the lane is refused, and it has not
        answered for a moment. Then it is asked at once."""
        somebody_waits = self.loans > len(self._lent)
        if self.lag.is_fresh or not (somebody_waits or self.pool.refuses_lane(lane)):
            return True
        self.lag.hurry()
        return False

    @override
    def lend(
        self, timeout: float | None, lane: Hashable | None = None, priority: Priority = "normal"
    ) -> Lent:
        return _LentByReplica(self, timeout, lane, priority)

    def note_asked(self) -> None:
        """Count one who borrows, from before its wait on."""
        self.loans += 1
        self.chosen_at = monotonic()

    def note_lent(self, lease: Lease) -> None:
        self._lent.add(lease)

    def note_returned(self, lease: Lease | None) -> None:
        """Count it no more; None has got no lease."""
        self.loans -= 1
        if lease is not None:
            self._lent.discard(lease)

    def cut_off(self) -> None:
        """End the sessions that are lent: a server that is frozen will not answer them in time."""
        for lease in tuple(self._lent):
            lease.terminate()

    @override
    async def stop(self) -> None:
        await self.lag.stop()
        await super().stop()

    @override
    def _hear(self, event: PoolEvent) -> None:
        super()._hear(event)
        if event.name == "connection_opened" and not self.lag.allows_reading:
            self.lag.hurry()  # find out at once whether it may be read


class _LentByReplica(Lent):
    __slots__ = ("_replica",)

    def __init__(
        self, replica: Replica, timeout: float | None, lane: Hashable | None, priority: Priority
    ) -> None:
        super().__init__(replica, timeout, lane, priority)
        self._replica = replica

    @override
    async def __aenter__(self) -> Lease:
        self._replica.note_asked()
        try:
            lease = await super().__aenter__()
        except BaseException:
            self._replica.note_returned(None)
            raise
        self._replica.note_lent(lease)
        return lease

    @override
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            self._replica.note_returned(self._lease)
