"""One replica's pool, which serves while the replica is not too far behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from typing_extensions import override

from lifeguard.database.guard import Guard, PoolMaker
from lifeguard.database.lag import LagWatch
from lifeguard.pool import Lease, Pool, PoolEvent, Priority
from lifeguard.settings import Settings


class Replica(Guard):
    """Lends connections to one replica, and knows whether it is to be read."""

    def __init__(
        self,
        make_pool: PoolMaker,
        settings: Settings,
        on_event: Callable[[PoolEvent], None] | None,
        *,
        primary: Pool,
    ) -> None:
        super().__init__(make_pool, settings, on_event)
        self.lag = LagWatch(settings, primary=primary, replica=self.pool)
        self.loans = 0
        """How many borrow from it now, those that wait for a connection included."""

    @property
    @override
    def serves(self) -> bool:
        return super().serves and self.lag.allows_reading

    @property
    def replayed_lsn(self) -> int:
        """Where in the WAL its replay was when it was last asked, in bytes since the WAL's beginning; -1 while that
        is not known. Replay does not go back."""
        return self.lag.replayed_lsn

    @property
    def timeline(self) -> int:
        """The timeline of the WAL that it replays; 0 while that is not known."""
        return self.lag.timeline

    @property
    def obstacle(self) -> str:
        """Why it is not read. Empty while it is read, and while that is not known: no connection was needed
        yet, or the servers have not been asked yet."""
        if super().serves or self.sleeps:
            return self.lag.reason
        nothing_is_known = self.lag.standing == "unknown" and self.pool.stats().last_error is None
        return "" if nothing_is_known else "there is no connection to it"

    @override
    @asynccontextmanager
    async def lend(
        self, timeout: float | None, lane: Hashable | None = None, priority: Priority = "normal"
    ) -> AsyncIterator[Lease]:
        self.loans += 1
        try:
            async with super().lend(timeout, lane, priority) as lease:
                yield lease
        finally:
            self.loans -= 1

    @override
    async def stop(self) -> None:
        await self.lag.stop()
        await super().stop()

    @override
    def _hear(self, event: PoolEvent) -> None:
        super()._hear(event)
        if event.name == "connection_opened":
            self.lag.look_soon()
