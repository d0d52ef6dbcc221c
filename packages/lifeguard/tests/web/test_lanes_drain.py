"""The end of a service in which a lane hangs: it comes in time, and everybody is told."""

import asyncio

import httpx
from fastapi import APIRouter, BackgroundTasks, WebSocket
from lifeguard.database import Database
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import DatabaseDep, TransactionDep

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web.conftest import Log
from packages.lifeguard.tests.web.test_lanes_hang import KEY, get, lock
from packages.lifeguard.tests.web.test_sockets import close_code, open_socket

WAIT = f"SELECT pg_advisory_xact_lock({KEY})"
SETTINGS = {
    "drain_timeout": 1,
    "drain_streams": 0.2,
    "lock_timeout": 60,
    "statement_timeout": 60,
    "command_timeout": 90,
    "pool_acquire_timeout": 60,
    "pool_queue_target": 0,
    "log_level": "info",
}
"""Nobody is refused, or gives up, before the end does it."""
routes = APIRouter()


@routes.get("/test/locked")
async def locked(transaction: TransactionDep) -> None:
    await transaction.execute(WAIT)


@routes.get("/test/later")
async def later(database: DatabaseDep, tasks: BackgroundTasks) -> None:
    tasks.add_task(wait_for_lock, database)


@routes.websocket("/socket/locked")
async def socket(socket: WebSocket, database: DatabaseDep) -> None:
    await socket.accept()
    while True:
        await socket.receive_text()
        await wait_for_lock(database)


async def wait_for_lock(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute(WAIT)


async def holds(running: Service, lane: str, *, all_in_all: int) -> None:
    """Wait until it holds something, and so many requests do or wait for it."""

    def is_so() -> bool:
        stats = running.state["database"].primary.stats()
        there = stats.used + stats.waiting
        return there == all_in_all and any(one.name == lane and one.used for one in stats.lanes)

    await eventually(is_so)


async def test_a_drain_ends_in_its_time_and_tells_holders_and_waiters(
    migrated_database: str, log: Log
) -> None:
    settings = settings_for(migrated_database, pool_max_size=4, **SETTINGS)
    async with lock(migrated_database), service(settings, routes=routes) as running:
        await until_ready(running)
        async with open_socket(running, "locked") as talking:
            await talking.send("go")
            await holds(running, "WEBSOCKET /socket/locked", all_in_all=1)
            assert (await get(running, "/test/later")).is_success
            await holds(running, "after GET /test/later", all_in_all=2)
            asking = [asyncio.create_task(get(running, "/test/locked")) for _ in range(12)]
            await holds(running, "GET /test/locked", all_in_all=14)
            assert running.state["database"].primary.stats().waiting
            log()
            await running.stop()
            assert await close_code(talking) == 1012
        for answer in await asyncio.gather(*asking):
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert answer.json()["type"] == "/problems/shutting-down"
            assert int(answer.headers["retry-after"]) >= 1
    stats = running.state["database"].primary.stats()
    assert (stats.size, stats.used, stats.waiting) == (0, 0, 0)
    told = {line["event"]: line for line in log()}
    assert told["requests_cut_off"]["requests"] >= 12
    assert told["pool_drained"]["cut_off"] == []  # the requests have given all back
