"""Lanes on the pool pages: who holds and who waits, and which of them holds most."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from fastapi import APIRouter
from lifeguard.database import lane_watch
from lifeguard.operations.history import LaneSample
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import ConnectionDep, lane

SECRET = "canary-hush-hush-token"
SETTINGS = {
    "pool_max_size": 3,
    "app_env": "development",
    "ops_token": SECRET,
    "lock_timeout": 60,  # longer than any test waits
    "statement_timeout": 60,
    "command_timeout": 90,
}
LANE = "GET /test/wait/{table}"
routes = APIRouter(prefix="/test")


@routes.get("/wait/{table}")
async def wait(table: str, connection: ConnectionDep) -> None:
    await connection.execute(f"SELECT FROM {table}")


@routes.get("/tenant", dependencies=[lane(of=lambda request: request.headers["x-tenant"])])
async def of_a_tenant(connection: ConnectionDep) -> None:
    await connection.execute("SELECT FROM busy")


@pytest.fixture(autouse=True)
def _sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_watch, "LONG", 0.05)


@pytest.fixture
async def locked(serving: Service, module_database: str) -> AsyncIterator[int]:
    """Somebody keeps a lock on the table `busy` until the test is over; the process that has it."""
    outsider = await asyncpg.connect(module_database, server_settings={"application_name": "psql"})
    await outsider.execute("CREATE TABLE IF NOT EXISTS busy ()")
    async with outsider.transaction():
        await outsider.execute("LOCK TABLE busy IN ACCESS EXCLUSIVE MODE")
        yield outsider.get_server_pid()
    await outsider.close()


@asynccontextmanager
async def asking(serving: Service, *paths: str, **headers: str) -> AsyncIterator[None]:
    """Requests that are not answered before the block ends: their clients hang up."""
    requests = [asyncio.create_task(serving.client.get(path, headers=headers)) for path in paths]
    yield
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)


async def lanes_of(serving: Service) -> dict[str, dict[str, Any]]:
    (pool,) = (await serving.client.get("/pool")).json()["pools"]
    return {lane["name"]: lane for lane in pool["stats"]["lanes"]}


async def test_each_page_says_who_holds_and_who_waits(serving: Service, locked: int) -> None:
    async with asking(serving, "/test/wait/busy", "/test/wait/busy"):

        async def held() -> bool:
            lanes = await lanes_of(serving)
            return bool(LANE in lanes and lanes[LANE]["used"] == 2)

        await eventually(held)
        leases = (await serving.client.get("/pool/leases")).json()["leases"]["primary"]
        of_lane = [lease for lease in leases if lease["lane"] == LANE]
        assert [lease["priority"] for lease in of_lane] == ["normal", "normal"]
        history = serving.state["history"]
        history.take()
        (pool,) = history.since()[-1]["pools"]
        (sample,) = [lane for lane in pool["lanes"] if lane["name"] == LANE]
        assert sample["used"] == 2
        metrics = (await serving.client.get("/metrics")).text
        pool_name = 'db_client_connection_pool_name="primary"'
        assert f'db_pool_lane_used{{{pool_name},lane="{LANE}"}} 2.0' in metrics


async def test_what_holds_most_is_told_in_numbers_to_all_and_by_names_to_operators(
    serving: Service, locked: int
) -> None:
    async with asking(serving, *["/test/wait/busy"] * 2):

        async def told() -> dict[str, Any]:
            (pool,) = (await serving.client.get("/pool")).json()["pools"]
            report: dict[str, Any] = pool["hanging_lane"] or {}
            return report if report.get("sessions") else {}

        shown = await eventually(told)
        assert (shown["lane"], shown["holds"], shown["sessions"]) == (LANE, 2, {"waiting for a lock": 2})
        report = (await serving.client.get("/pool/leases")).json()
        said = f"lane {LANE} holds 2 of 3 connections, all waiting for a lock"
        assert report["reports"] == {"primary": f"{said} on busy"}
        (blocker,) = report["blocked_by"]["primary"]
        assert blocker.startswith(f"process {locked} (psql, ")
        serving.state["history"].take()
        (pool,) = serving.state["history"].since()[-1]["pools"]
        assert pool["hanging_lane"] == said


async def test_names_of_clients_are_shown_without_secrets(serving: Service, locked: int) -> None:
    """Until a name has been served for some time it shares the lane of newcomers."""
    async with asking(serving, "/test/tenant", **{"X-Tenant": SECRET}):

        async def held() -> dict[str, Any]:
            leases = (await serving.client.get("/pool/leases")).json()["leases"]["primary"]
            return {lease["route"]: lease["lane"] for lease in leases if lease["route"]}

        assert await eventually(held) == {"GET /test/tenant": "newcomers"}
        for path in ("/pool", "/pool/leases", "/metrics"):
            assert SECRET not in (await serving.client.get(path)).text


async def test_the_live_page_draws_all_that_a_sample_has_of_a_lane(serving: Service) -> None:
    page = (await serving.client.get("/pool/live")).text
    (drawn,) = re.findall(r"function drawLanes.*?\n}\n", page, re.DOTALL)
    assert {name for name in LaneSample.__annotations__ if f"lane.{name}" in drawn} == set(
        LaneSample.__annotations__
    )
