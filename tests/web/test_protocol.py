"""Refusals on arrival: what the gate says behind it, but without a task, and no harm to the connection."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from email.parser import BytesHeaderParser
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import APIRouter, Request
from uvicorn.protocols.http import httptools_impl

from tests.inside import Service
from tests.waiting import eventually
from tests.web.test_gate import PLACES, SETTINGS, saturated

__all__ = ["SETTINGS"]

routes = APIRouter(prefix="/test")


@routes.post("/headers")
async def names_of_headers(request: Request) -> list[str]:
    await request.body()
    return request.headers.keys()


ORDINARY = b"GET /items HTTP/1.1\r\nHost: x\r\nX-Request-ID: one\r\n\r\n"
DECODED = ORDINARY.replace(b"/items", b"/%69tems")  # which the app must do


class Wire:
    """A client that says what it says byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.send = writer.write

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        status_line, _, lines = head.partition(b"\r\n")
        headers = {name.lower(): value for name, value in BytesHeaderParser().parsebytes(lines).items()}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status_line.split()[1]), headers, body


@asynccontextmanager
async def wire(service: Service) -> AsyncIterator[Wire]:
    url = urlsplit(str(service.client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that got as far as a task of their own."""
    paths: list[str] = []
    run_asgi = httptools_impl.RequestResponseCycle.run_asgi

    async def noted(cycle: httptools_impl.RequestResponseCycle, app: object) -> None:
        paths.append(cycle.scope["path"])
        await run_asgi(cycle, app)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(httptools_impl.RequestResponseCycle, "run_asgi", noted)
    return paths


async def test_says_what_the_gate_behind_it_says(serving: Service, tasks: list[str]) -> None:
    async with saturated(serving), wire(serving) as client:
        client.send(ORDINARY)
        early = await client.answer()
        assert tasks == []
        client.send(DECODED)
        late = await client.answer()
        assert tasks == ["/items"]
    assert early[0] == late[0] == httpx.codes.SERVICE_UNAVAILABLE
    assert early[2] == late[2]
    assert {**early[1], "date": ""} == {**late[1], "date": ""}


async def test_gives_an_id_to_whoever_has_none(serving: Service) -> None:
    async with saturated(serving), wire(serving) as client:
        client.send(b"GET /items HTTP/1.1\r\nHost: x\r\nX-Request-ID: no good\r\n\r\n")
        _, headers, body = await client.answer()
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert headers["x-request-id"].encode() in body


async def test_connection_serves_on_after_a_refusal(serving: Service) -> None:
    async with wire(serving) as client:
        async with saturated(serving):
            for _ in range(3):
                client.send(ORDINARY)
                assert (await client.answer())[0] == httpx.codes.SERVICE_UNAVAILABLE
        client.send(ORDINARY)
        assert (await client.answer())[0] == httpx.codes.OK


async def test_a_body_that_follows_its_refusal_is_not_taken_for_a_request(serving: Service) -> None:
    async with saturated(serving), wire(serving) as client:
        client.send(b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\nGET /healthz ")
        assert (await client.answer())[0] == httpx.codes.SERVICE_UNAVAILABLE
        client.send(b"HTTP/1.1\r\nHost: x\r\n\r\n      " + ORDINARY)
        status, headers, _ = await client.answer()
    assert (status, headers["x-request-id"]) == (httpx.codes.SERVICE_UNAVAILABLE, "one")


async def test_pipelined_requests_are_answered_in_their_order(serving: Service) -> None:
    async with saturated(serving), wire(serving) as client:
        ids = [str(n) for n in range(6)]
        paths = ["/items", "/healthz", "/items", "/items", "/healthz", "/items"]
        client.send(
            b"".join(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: {tag}\r\n\r\n".encode()
                for path, tag in zip(paths, ids, strict=True)
            )
        )
        answers = [await client.answer() for _ in ids]
    assert [headers["x-request-id"] for _, headers, _ in answers] == ids
    assert [status for status, *_ in answers] == [503, 200, 503, 503, 200, 503]


@pytest.mark.parametrize(
    "request_head",
    [
        b"HEAD /items HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /items HTTP/1.0\r\n\r\n",
        b"POST /items HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        DECODED,
    ],
    ids=["HEAD", "HTTP/1.0", "expectation", "encoded"],
)
async def test_what_is_out_of_the_ordinary_is_left_to_the_app(
    serving: Service, tasks: list[str], request_head: bytes
) -> None:
    async with saturated(serving), wire(serving) as client:
        client.send(request_head)
        status_line = await client.reader.readline()
    assert status_line.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 405 "))
    assert tasks == ["/items"]


async def test_a_bad_timeout_is_the_clients_fault_all_the_same(serving: Service) -> None:
    async with saturated(serving), wire(serving) as client:
        client.send(ORDINARY.replace(b"\r\n\r\n", b"\r\nX-Request-Timeout: soon\r\n\r\n"))
        assert (await client.answer())[0] == httpx.codes.UNPROCESSABLE_ENTITY


async def test_of_those_that_arrive_together_no_more_pass_than_there_are_places(
    serving: Service, tasks: list[str]
) -> None:
    """They all find the queue as it was before the first of them has joined."""
    pool = serving.state["database"].primary
    async with AsyncExitStack() as open_wires:
        async with pool.acquire():
            waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
            await eventually(lambda: pool.stats().waiting == 1)
            crowd = [await open_wires.enter_async_context(wire(serving)) for _ in range(20)]
            for client in crowd:
                client.send(ORDINARY)
            await eventually(lambda: pool.stats().waiting == PLACES)
        answers = [(await client.answer())[0] for client in crowd]
    await waiting
    assert answers.count(httpx.codes.OK) == PLACES - 1
    assert len(tasks) == PLACES - 1


async def test_trailers_do_not_become_headers(serving: Service) -> None:
    """They come when whoever looks at headers has looked."""
    async with wire(serving) as client:
        client.send(b"POST /test/headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"2\r\nhi\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
        _, _, body = await client.answer()
    assert json.loads(body) == ["host", "transfer-encoding"]
