"""A pool and the circuit breaker in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.database.breaker import Breaker, BreakerState
from app.pool import Lease, Pool, PoolError, PoolEvent
from app.settings import Settings

PoolMaker = Callable[[Callable[[PoolEvent], None]], Pool]


class Guard:
    """Lends the pool's connections while its breaker allows, and tells the breaker how that went."""

    def __init__(
        self,
        make_pool: PoolMaker,
        settings: Settings,
        on_event: Callable[[PoolEvent], None] | None,
    ) -> None:
        """`make_pool` gets what the pool is to call with its events; `on_event` hears of them too."""
        self._on_event = on_event
        self.pool = make_pool(self._hear)
        self.breaker = Breaker(
            self.pool.name,
            fail_max=settings.breaker_fail_max,
            reset_timeout=settings.breaker_reset_timeout,
            probe=self._probe,
            on_open=self.pool.refuse_waiting,
        )

    @asynccontextmanager
    async def lend(self, timeout: float | None) -> AsyncIterator[Lease]:
        """A lease for the block; `timeout` as in `Pool.acquire()`.

        Raises DatabaseUnavailable while the breaker is not closed, or the pool's errors.
        """
        ticket = self.breaker.admit()
        try:
            lease = await self.pool.acquire(timeout=timeout)
        except PoolError as error:
            self.breaker.failed(ticket, error)
            raise
        try:
            yield lease
        except Exception as error:
            self.breaker.failed(ticket, error)
            raise
        else:
            self.breaker.succeeded(ticket)
        finally:
            await self.pool.release(lease)

    async def stop(self) -> None:
        await self.breaker.stop()

    async def _probe(self) -> None:
        async with self.pool.acquire() as lease:
            await lease.execute("SELECT 1")

    def _hear(self, event: PoolEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)
        if event.name == "open_failed" and event.stats.size == 0:
            self.breaker.cannot_connect()
        elif event.name == "connection_opened" and self.breaker.state is BreakerState.OPEN:
            self.breaker.look_now()
