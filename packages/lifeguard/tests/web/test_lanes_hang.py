"""A route that hangs, before a real server: it is refused, and the others notice nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
from fastapi import APIRouter
from lifeguard.pool import LaneStats
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import TransactionDep, lane

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web.conftest import Log

SETTINGS = {
    "pool_max_size": 4,
    "pool_acquire_timeout": 1.2,
    "breaker_fail_max": 1,
    "log_level": "info",
    "lock_timeout": 60,
    "statement_timeout": 60,
    "command_timeout": 90,
}
KEY = 17
routes = APIRouter(prefix="/test")


@routes.get("/locked")
async def locked(transaction: TransactionDep) -> None:
    """Wait for a lock that its test holds."""
    await transaction.execute(f"SELECT pg_advisory_xact_lock({KEY})")


@routes.get("/quick")
async def quick(transaction: TransactionDep) -> None:
    await transaction.execute("SELECT 1")


@routes.get("/background", dependencies=[lane(priority="background")])
async def background(transaction: TransactionDep) -> None:
    await transaction.execute("SELECT 1")


def lane_of(service: Service, name: str = "GET /test/locked") -> LaneStats | None:
    stats = service.state["database"].primary.stats()
    return next((one for one in stats.lanes if one.name == name), None)


def breaker_of(service: Service) -> str:
    found = lane_of(service)
    return found.breaker if found else "closed"


@asynccontextmanager
async def lock(url: str) -> AsyncIterator[None]:
    """Somebody holds the lock."""
    locker = await asyncpg.connect(url)
    try:
        await locker.execute(f"SELECT pg_advisory_lock({KEY})")
        yield
    finally:
        await locker.close()


async def get(service: Service, path: str, **headers: str) -> httpx.Response:
    return await service.client.get(path, headers=headers)


@asynccontextmanager
async def hung(service: Service, url: str) -> AsyncIterator[None]:
    """The lane's breaker has opened, and the clients of all that hung have left."""
    pool = service.state["database"].primary
    asking: list[asyncio.Task[httpx.Response]] = []

    def has_opened() -> bool:
        # One more than there are connections. A connection may be kept for a lane of the test before.
        missing = pool.get_max_size() + 1 - sum(not task.done() for task in asking)
        asking.extend(asyncio.create_task(get(service, "/test/locked")) for _ in range(missing))
        return breaker_of(service) == "open"

    async with lock(url):
        await eventually(has_opened)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await eventually(lambda: pool.stats().used == 0)
        yield


@asynccontextmanager
async def probing(service: Service, priority: str = "normal") -> AsyncIterator[None]:
    """A request of the lane hangs, while it is the only one that may try; then its client leaves."""
    probe = asyncio.create_task(get(service, "/test/locked", **{"X-Request-Priority": priority}))
    await eventually(lambda: breaker_of(service) == "half_open")
    yield
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)


async def closed(service: Service) -> None:
    """Let the lane be itself again."""

    async def served() -> bool:
        return (await get(service, "/test/locked")).is_success

    await eventually(served)
    await eventually(lambda: breaker_of(service) == "closed")


async def test_its_requests_are_refused_and_told_that_it_is_they(
    serving: Service, module_database: str, log: Log
) -> None:
    log()
    async with hung(serving, module_database), probing(serving):
        refused = await get(serving, "/test/locked")
        for path in ("/test/quick", "/test/background") * 10:
            assert (await get(serving, path)).is_success
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert refused.json()["type"] == "/problems/pool-saturated"
    assert "of this kind" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) >= 1
    await closed(serving)
    assert not serving.state["database"].breaker.transitions
    events = [line["event"] for line in log()]
    assert events.count("lane_breaker_opened") == events.count("lane_breaker_closed") == 1


async def test_a_probe_whose_client_leaves_gives_its_place_to_the_next(
    serving: Service, module_database: str
) -> None:
    async with hung(serving, module_database):
        for priority in ("critical", "normal", "background"):
            async with probing(serving, priority):
                pass
            await eventually(lambda: breaker_of(serving) == "open")
    await closed(serving)
    assert not serving.state["database"].breaker.transitions


class TestAPoolOfOne:
    """One long query, and others that wait for it in vain."""

    async def test_has_the_lane_s_breaker_say_so_and_not_the_database_s(self, migrated_database: str) -> None:
        settings = settings_for(
            migrated_database, pool_max_size=1, pool_acquire_timeout=0.3, breaker_fail_max=1
        )
        async with service(settings, routes=routes) as running, lock(migrated_database):
            await until_ready(running)
            pool = running.state["database"].primary
            holding = asyncio.create_task(get(running, "/test/locked"))
            await eventually(lambda: pool.stats().used)
            said: set[str] = set()

            async def is_refused() -> bool:
                paths = ["/test/locked"] * 6 + ["/test/quick"] * 2
                for answer in await asyncio.gather(*(get(running, path) for path in paths)):
                    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
                    said.add(answer.json()["type"])
                return breaker_of(running) == "open"

            await eventually(is_refused)
            assert said <= {"/problems/pool-timeout", "/problems/pool-saturated"}
            quick = lane_of(running, "GET /test/quick")
            assert quick is None or quick.breaker == "closed"
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            assert not running.state["database"].breaker.transitions
        assert not running.state["database"].breaker.transitions
