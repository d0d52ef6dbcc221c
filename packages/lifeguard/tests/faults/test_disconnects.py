"""Clients that hang up: their work ends, nothing of it stays, no lease is lost."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Annotated

import asyncpg
import pytest
from fastapi import APIRouter, Body
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import TransactionDep

from packages.lifeguard.tests.inside import service, settings_for

slow = APIRouter()


@slow.post("/slow")
async def write_slowly(transaction: TransactionDep, note: Annotated[str, Body()]) -> None:
    await transaction.execute("WITH nap AS (SELECT pg_sleep(30)) INSERT INTO notes SELECT $1 FROM nap", note)


CLIENTS = 2000
AT_ONCE = 200


@pytest.fixture
async def serving(migrated_database: str) -> AsyncIterator[Service]:
    async with service(settings_for(migrated_database, pool_queue_target=0), routes=slow) as running:
        await until_ready(running)
        yield running


async def hang_up(serving: Service, request: bytes, after: float) -> None:
    """Send `request` and close the socket `after` seconds later, whatever has come by then."""
    _, writer = await asyncio.open_connection(serving.client.base_url.host, serving.client.base_url.port)
    writer.write(request)
    await asyncio.sleep(after)  # the client's own whim: there is nothing to wait for
    writer.transport.abort()


def post(path: str, body: object) -> bytes:
    content = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content


@pytest.mark.slow
async def test_two_thousand_clients_that_hang_up_at_random_leave_nothing_behind(
    serving: Service, postgres: PostgresServer, migrated_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = serving.state["database"].primary
    chance = random.Random(20)
    requests = [
        b"GET /items?limit=1000 HTTP/1.1\r\nHost: test\r\n\r\n",
        post("/items", {"name": "x" * 1000}),
        post("/items", {"name": "unfinished"})[:-5],
    ]
    places = asyncio.Semaphore(AT_ONCE)

    async def client() -> None:
        async with places:
            await hang_up(serving, chance.choice(requests), chance.uniform(0, 0.02))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    drain = serving.state["drain"]
    await eventually(lambda: drain.in_flight == 0 and pool.stats().used == 0)
    await eventually(lambda: pool.get_min_size() <= pool.get_size() <= pool.get_max_size())
    name = migrated_database.rpartition("/")[2].partition("?")[0]

    async def at_rest() -> bool:
        sessions = await postgres.backends(name)
        return {session["state"] for session in sessions} <= {"idle"} and len(sessions) == pool.get_size()

    await eventually(at_rest)
    assert (await serving.client.get("/items")).is_success
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not [line for line in lines if line["level"] == "error"]  # nothing is wrong on our side


async def test_the_work_of_a_client_that_hangs_up_ends_and_is_rolled_back(
    serving: Service, migrated_database: str
) -> None:
    pool = serving.state["database"].primary
    watcher = await asyncpg.connect(migrated_database)
    try:
        await watcher.execute("CREATE TABLE notes (note text)")

        async def at_work() -> bool:
            return bool(
                await watcher.fetchval(
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query ~ 'notes'"
                )
            )

        async def at_rest() -> bool:
            return pool.stats().used == 0 and not await at_work()

        _, writer = await asyncio.open_connection(serving.client.base_url.host, serving.client.base_url.port)
        writer.write(post("/slow", "of a client in a hurry"))
        await eventually(at_work)
        writer.transport.abort()
        await eventually(at_rest)
        assert await watcher.fetchval("SELECT count(*) FROM notes") == 0
    finally:
        await watcher.close()
