"""The end: requests under way are finished, and none outlives its time."""

import asyncio

import httpx
from fastapi import APIRouter
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import TransactionDep
from lifeguard.web.drain import Drain

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.stopwatch import Stopwatch

routes = APIRouter(prefix="/test")


@routes.post("/write/{seconds}")
async def write(seconds: float, transaction: TransactionDep) -> str:
    await transaction.execute("CREATE TABLE written ()")
    await transaction.fetchval("SELECT pg_sleep($1)", seconds)
    return "written"


async def under_way(running: Service, seconds: float) -> asyncio.Task[httpx.Response]:
    """A request in the middle of its transaction."""
    request = asyncio.create_task(running.client.post(f"/test/write/{seconds}"))
    await eventually(lambda: running.state["database"].primary.stats().used)
    return request


async def test_a_request_under_way_is_finished(migrated_database: str) -> None:
    async with service(settings_for(migrated_database), routes=routes) as running:
        await until_ready(running)
        request = await under_way(running, 0.5)
        await running.stop()
        answer = await request
        assert answer.json() == "written"
        assert answer.headers["connection"] == "close"
    assert running.state["database"].primary.stats().closing_down


async def test_a_request_that_takes_too_long_is_cut_off_and_told(migrated_database: str) -> None:
    settings = settings_for(migrated_database, drain_timeout=0.3)
    async with Stopwatch() as watch, service(settings, routes=routes) as running:
        await until_ready(running)
        request = await under_way(running, 30)
        await running.stop()
        answer = await request
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/shutting-down")
        assert int(answer.headers["retry-after"]) >= 1
    assert watch.seconds < 5


async def test_nobody_is_lent_a_connection_at_the_end(migrated_database: str) -> None:
    async with service(settings_for(migrated_database), routes=routes) as running:
        await until_ready(running)
        await running.state["database"].drain(1)
        answer = await running.client.get("/items")
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/shutting-down")


class TestTime:
    async def test_is_all_there_before_the_end_begins(self) -> None:
        drain = Drain(timeout=20)
        assert (drain.draining, drain.time_left()) == (False, 20)
        assert not await drain.wait(0.01)

    async def test_runs_from_the_first_word_on(self) -> None:
        drain = Drain(timeout=20)
        drain.begin()
        left = drain.time_left()
        assert 19 < left <= 20
        drain.begin()
        assert drain.time_left() <= left

    async def test_begins_after_the_delay(self) -> None:
        drain = Drain(timeout=20)
        drain.begin(delay=5)
        assert drain.draining
        assert 24 < drain.time_left() <= 25
