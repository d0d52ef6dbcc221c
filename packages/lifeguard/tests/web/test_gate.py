"""The gate: who is turned away before routing, what he is told, and who never is."""

import asyncio
from contextlib import AbstractAsyncContextManager

import httpx
import pytest
from lifeguard.pool import PoolSaturated
from lifeguard.testing.service import saturated as database_saturated
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import problems

from packages.lifeguard.tests.web.conftest import Log

PLACES = 2
# Full is what the queue shall be, not slow.
SETTINGS = {"pool_max_size": 1, "pool_max_waiting": PLACES, "pool_queue_target": 4}


def saturated(service: Service) -> AbstractAsyncContextManager[None]:
    """In the block the only connection is in use, and all places in the queue are taken."""
    return database_saturated(service.state["database"])


async def test_a_saturated_pool_turns_requests_away_in_the_words_of_its_error(serving: Service) -> None:
    async with saturated(serving):
        answer = await serving.client.get("/items", headers={"X-Request-ID": "req-1"})
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    error = PoolSaturated("", serving.state["database"].primary.stats(), reason="", retry_after=0)
    told = problems.problem_of(error)
    assert answer.json() == {**told.marshal(uri=problems.TYPE_URI), "request_id": "req-1"}
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"] == "req-1"


async def test_a_refusal_is_counted_by_route_and_by_reason(serving: Service) -> None:
    async def counted() -> list[str]:
        lines = (await serving.client.get("/metrics")).text.splitlines()
        wanted = (
            'db_pool_shed_total{db_client_connection_pool_name="primary",reason="queue_full"}',
            "/items/{",
        )
        return [line for line in lines if any(part in line for part in wanted)]

    before = await counted()
    async with saturated(serving):
        await serving.client.get("/items/7")
    after = await counted()
    assert after != before
    assert any('handler="/items/{item_id}"' in line and 'status="5xx"' in line for line in after)
    assert any(line.startswith("db_pool_shed_total") and not line.endswith(" 0.0") for line in after)


async def test_refusals_share_a_log_line(serving: Service, log: Log) -> None:
    log()
    async with saturated(serving):
        for _ in range(20):
            await serving.client.get("/items")
    lines: list[dict[str, object]] = []

    def told_of_all() -> bool:
        lines.extend(log())
        told = [int(str(line["pool_saturated"])) for line in lines if "pool_saturated" in line]
        assert len(told) < 20
        return sum(told) >= 20

    await eventually(told_of_all)
    assert not [line for line in lines if line["event"] == "request"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/pool", "/nothing/here"])
async def test_what_needs_no_database_is_never_turned_away(serving: Service, path: str) -> None:
    async with saturated(serving):
        answer = await serving.client.get(path)
    assert answer.status_code in {httpx.codes.OK, httpx.codes.NOT_FOUND}


async def test_an_open_breaker_answers_for_the_database(serving: Service) -> None:
    breaker = serving.state["database"].breaker
    while breaker.state.label == "closed":
        breaker.cannot_connect()
    answer = await serving.client.post("/items", json={"name": "late"})
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert answer.json()["type"] == "/problems/database-unavailable"
    assert int(answer.headers["retry-after"]) >= 1
    breaker.look_now()
    await eventually(lambda: breaker.state.label == "closed")
    assert (await serving.client.post("/items", json={"name": "late"})).status_code == httpx.codes.CREATED


async def test_a_client_in_a_hurry_is_told_at_once(serving: Service) -> None:
    pool = serving.state["database"].primary

    async def wait() -> None:
        async with pool.acquire(lane="GET /items"):
            pass

    async with pool.acquire(lane="GET /items"):
        waiting = asyncio.create_task(wait())
        await eventually(lambda: pool.stats().oldest_wait > 0.05)
        answer = await serving.client.get("/items", headers={"X-Request-Timeout": "0.01"})
    await waiting
    assert answer.json()["type"] == "/problems/pool-saturated"
    assert pool.stats().shed["deadline"] == 1
