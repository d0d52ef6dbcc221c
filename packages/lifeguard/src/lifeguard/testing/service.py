"""The owner's service in the test's own process and loop: no port, no server, the whole application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from lifeguard.database import Database
from lifeguard.operations.state import State
from lifeguard.pool import Pool, PoolSaturated
from lifeguard.settings import Settings
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.waiting import eventually

S = TypeVar("S", bound=Settings)

SMALL: dict[str, object] = {"pool_min_size": 1, "pool_max_size": 5, "log_level": "warning"}
"""Settings of a service under test: it starts at once, and a test's output has what went wrong."""
_OUTAGE_NOTICED = 10.0  # seconds
_PATIENT = 3600.0  # seconds that a connection's wait may last: longer than any test


class ServiceUnderTest(Generic[S]):
    """What the fixtures start: the owner's application factory, and the class of its settings.

    `values` are settings of every test, besides `SMALL`; those of one test or class are in its
    `@pytest.mark.settings(...)`.
    """

    def __init__(self, create_app: Callable[[S], FastAPI], settings: type[S], **values: object) -> None:
        self.create_app = create_app
        self.settings = settings
        self.values = values

    def settings_for(self, url: str, **values: object) -> S:
        """Settings that use this database, and nothing of the environment."""
        return self.settings.model_validate(
            {"database_url": SecretStr(url), **SMALL, **self.values, **values}
        )


@dataclass(frozen=True)
class RunningService:
    """A service whose lifespan has begun. An ASGI application: transports know nothing of lifespans."""

    app: FastAPI
    state: State

    @property
    def database(self) -> Database:
        return self.state["database"]

    @property
    def settings(self) -> Settings:
        return self.state["settings"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": dict(self.state)}, receive, send)

    def client(self, **options: Any) -> httpx.AsyncClient:  # Any: httpx.AsyncClient's own
        """A client of it, with these options of `httpx.AsyncClient`. An answer is given when it is whole: a
        stream without an end needs a real socket. What the service fails to foresee is its answer 500."""
        transport = httpx.ASGITransport(self, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, **{"base_url": "http://test", **options})


@contextlib.asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[RunningService]:
    """The service from its first connection to its last, in this loop."""
    async with app.router.lifespan_context(app) as state:
        yield RunningService(app, state)  # type: ignore[arg-type]  # Starlette has any mapping here


# -- faults ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def saturated(database: Database, *, waiting: int | None = None) -> AsyncIterator[None]:
    """In the block every connection is in use, and `waiting` borrowers are in the queue: None fills it, so
    that a request is turned away at once; with 0 a request waits in vain."""
    async with contextlib.AsyncExitStack() as until_the_end:
        for pool in _pools(database):
            await until_the_end.enter_async_context(_pool_saturated(pool, waiting))
        yield


@contextlib.asynccontextmanager
async def _pool_saturated(pool: Pool, waiting: int | None) -> AsyncIterator[None]:
    async def wait_in_vain(number: int) -> None:
        # Each in a lane of its own, which holds nothing: a queue of several is shed after its target, and
        # the breaker of a lane that holds something empties its queue after a second.
        with contextlib.suppress(PoolSaturated):
            async with pool.acquire(timeout=_PATIENT, lane=f"saturated: waiter {number}"):
                pass

    leases = [await pool.acquire(timeout=_PATIENT) for _ in range(pool.get_max_size())]
    waiters: list[asyncio.Task[None]] = []
    try:
        while waiting is None or len(waiters) < waiting:
            waiters.append(
                asyncio.create_task(wait_in_vain(len(waiters)), name="lifeguard.testing: saturated")
            )
            await asyncio.sleep(0)  # it is in the queue now, or has been turned away
            await asyncio.sleep(0)  # which takes a turn more
            if waiters[-1].done():
                break
        yield
    finally:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        for lease in leases:
            await pool.release(lease)


@contextlib.asynccontextmanager
async def down(database: Database, proxy: Proxy) -> AsyncIterator[None]:
    """In the block nothing answers behind `proxy`, and the service knows: its breaker is open. After it the
    service has recovered."""
    proxy.refuse_new = True
    proxy.reset_links()
    breaker = database.breaker

    async def known() -> bool:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(database.execute("SELECT 1"), 0.1)
        return breaker.state.label == "open"

    await eventually(known, _OUTAGE_NOTICED)
    try:
        yield
    finally:
        proxy.resume()

        async def serves() -> bool:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(database.execute("SELECT 1"), 1)
                return True
            return False

        await eventually(serves, _OUTAGE_NOTICED)


@contextlib.asynccontextmanager
async def slow(proxy: Proxy, seconds: float) -> AsyncIterator[None]:
    """In the block each message to the database, and each from it, takes so long."""
    before, proxy.latency = proxy.latency, seconds
    try:
        yield
    finally:
        proxy.latency = before


def _pools(database: Database) -> list[Pool]:
    return [pool for pool in (database.primary, database.replica) if pool is not None]
