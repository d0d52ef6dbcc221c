"""A pool and the circuit breaker in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg

from app.database.breaker import Breaker, BreakerState
from app.database.errors import SESSION_ENDED, DatabaseUnavailable
from app.database.scope import current_caller
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

    @property
    def serves(self) -> bool:
        """Whether there is a connection and no reason to doubt it."""
        return self.breaker.state is BreakerState.CLOSED and self.pool.get_size() > 0

    @asynccontextmanager
    async def lend(self, timeout: float | None) -> AsyncIterator[Lease]:
        """A lease for the block; `timeout` as in `Pool.acquire()`.

        Raises DatabaseUnavailable while the breaker is not closed and when the session is lost in the
        block, and the pool's errors.
        """
        ticket = self.breaker.admit()
        try:
            async with self.pool.acquire(timeout=timeout, caller=current_caller()) as lease:
                with _losses_told(lease):
                    yield lease
        except Exception as error:
            self.breaker.failed(ticket, error)
            if isinstance(error, SESSION_ENDED):
                raise DatabaseUnavailable(f"the connection was lost: {error}") from error
            raise
        else:
            self.breaker.succeeded(ticket)

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


@contextmanager
def _losses_told(lease: Lease) -> Iterator[None]:
    """Raise one of SESSION_ENDED also where asyncpg only says that the connection is closed.

    Who was waiting when the session ended got the reason; whoever comes after gets no more than that.
    """
    try:
        yield
    except asyncpg.InterfaceError as error:
        if isinstance(error, PoolError) or not lease.is_closed():
            raise
        raise asyncpg.ConnectionDoesNotExistError(str(error)) from error
