"""Applications mounted in the service, and routes that share a path: the gate, and errors."""

from collections.abc import AsyncIterator
from typing import Annotated

import httpx
import pytest
from fastapi import APIRouter, Body, FastAPI, Request, Response
from lifeguard.database import BreakerState
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from lifeguard.web import ReadConnectionDep, problems
from lifeguard.web import app as web
from starlette.exceptions import HTTPException
from starlette.routing import Mount

SETTINGS = {"breaker_reset_timeout": 10}

mounted = FastAPI(openapi_url=None)


@mounted.get("/read")
async def read(connection: ReadConnectionDep) -> int:
    number: int = await connection.fetchval("SELECT 1")
    return number


@mounted.get("/gone")
async def gone() -> None:
    raise problems.NotFound("That one.")


@mounted.post("/number")
async def number(number: Annotated[int, Body(embed=True)]) -> int:
    return number


@mounted.get("/broken")
async def broken() -> None:
    raise ZeroDivisionError


routes = APIRouter()
routes.routes.append(Mount("/sub", mounted))


@routes.get("/both")
async def reads(connection: ReadConnectionDep) -> int:
    return await read(connection)


@routes.post("/both")
async def needs_nothing() -> str:
    return "posted"


@routes.get("/both/summary")
async def summary() -> str:
    return "summary"


@routes.get("/both/{number}")
async def one(number: str, connection: ReadConnectionDep) -> int:
    return await read(connection)


@pytest.fixture
async def without_database(serving: Service) -> AsyncIterator[Service]:
    breaker = serving.state["database"].breaker
    while breaker.state is BreakerState.CLOSED:
        breaker.cannot_connect()
    yield serving
    breaker.look_now()
    await eventually(lambda: breaker.state.label == "closed")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/both", 503),
        ("HEAD", "/both", 503),
        ("POST", "/both", 200),
        ("GET", "/both/summary", 200),
        ("GET", "/both/1", 503),
        ("GET", "/sub/read", 503),
        ("GET", "/sub/gone", 404),
        ("PUT", "/both", 405),
    ],
)
async def test_the_gate_refuses_what_the_router_would_give_to_the_database(
    without_database: Service, method: str, path: str, status: int
) -> None:
    answer = await without_database.client.request(method, path)
    assert answer.status_code == status


async def test_errors_in_a_mounted_app_are_problems(serving: Service) -> None:
    missing = await serving.client.get("/sub/gone")
    assert (missing.status_code, missing.json()["type"]) == (404, "/problems/not-found")
    broken = await serving.client.get("/sub/broken")
    assert (broken.status_code, broken.json()["type"]) == (500, "/problems/internal")
    assert broken.json()["request_id"] == broken.headers["x-request-id"]
    assert (await serving.client.get("/sub/read")).status_code == httpx.codes.OK
    for path, body, status, name in (
        ("/sub/number", {"number": "secret"}, 422, "validation"),
        ("/sub/number", {"number": [1] * 9000}, 422, "validation"),
        ("/sub/nowhere", {}, 404, "not-found"),
        ("/sub/number", {"number": "x" * 70_000}, 413, "payload-too-large"),
    ):
        answer = await serving.client.post(path, json=body)
        assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{name}")
        assert "secret" not in answer.text


async def test_a_mounted_app_may_have_errors_of_its_own() -> None:
    async def own(request: Request, error: Exception) -> Response:
        return Response("mine", 418)

    inner, service = FastAPI(exception_handlers={HTTPException: own}), web.App()
    service.mount("/inner", inner)
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/inner/nowhere")
    assert (answer.status_code, answer.text) == (418, "mine")


async def test_allow_lists_what_the_router_takes(serving: Service) -> None:
    answer = await serving.client.put("/both")
    assert answer.headers["allow"] == "GET, HEAD, POST"
