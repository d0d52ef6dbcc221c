"""A browser that comes from elsewhere is told why it is refused: with the owner's CORS headers."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from lifeguard.server.protocol import Protocol
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.web.test_gate import PLACES, saturated

ORIGIN = "https://shop.example"
BROWSER = {"Origin": ORIGIN, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"}
routes = APIRouter()


@routes.get("/test/endless")
async def endless() -> None:
    await asyncio.Event().wait()


def allow(app: FastAPI) -> None:
    app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], expose_headers=["Retry-After"])


@pytest.fixture
async def browsed(migrated_database: str) -> AsyncIterator[Service]:
    settings = settings_for(migrated_database, pool_max_size=1, pool_max_waiting=PLACES, drain_timeout=0.2)
    async with service(settings, routes=routes, prepare=allow) as running:
        await until_ready(running)
        yield running


def assert_readable(answer: httpx.Response, problem: str) -> None:
    """Whether a browser would let the page that asked see this."""
    assert answer.json()["type"] == f"/problems/{problem}"
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-expose-headers"] == "Retry-After"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refusal_for_a_full_queue_can_be_read(browsed: Service, method: str) -> None:
    async with saturated(browsed):
        answer = await browsed.client.request(method, "/items", headers=BROWSER)
    assert_readable(answer, "pool-saturated")


async def test_other_refusals_can_be_read(browsed: Service) -> None:
    for path, timeout in (("/items", "soon"), ("/nothing", "1")):
        answer = await browsed.client.get(path, headers={**BROWSER, "X-Request-Timeout": timeout})
        assert answer.is_client_error
        assert answer.headers["access-control-allow-origin"] == ORIGIN


async def test_being_cut_off_by_the_drain_can_be_read(browsed: Service) -> None:
    request = asyncio.create_task(browsed.client.get("/test/endless", headers=BROWSER))
    await eventually(lambda: browsed.state["drain"].in_flight == 1)
    await browsed.stop()
    assert_readable(await request, "shutting-down")


class TestTheCheapWay:
    """A refusal that is written before there is a task: only where nothing else would have had a say."""

    def may_refuse(self, running: Service, app: object) -> bool:
        config = running.server.config
        before, config.loaded_app = config.loaded_app, app
        try:
            protocol = Protocol(config, running.server.server_state, {**running.state})
        finally:
            config.loaded_app = before
        return protocol._gate is not None

    async def test_is_taken_without_a_middleware_of_the_owners(self, serving: Service) -> None:
        assert self.may_refuse(serving, serving.server.config.loaded_app)

    async def test_is_not_taken_with_one(self, browsed: Service, serving: Service) -> None:
        assert not self.may_refuse(browsed, browsed.server.config.loaded_app)
        assert not self.may_refuse(serving, CORSMiddleware(serving.app))
