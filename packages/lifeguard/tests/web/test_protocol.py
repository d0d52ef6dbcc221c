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
from fastapi.responses import Response, StreamingResponse
from lifeguard.server import connection, protocol, write_deadline
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from uvicorn.protocols.http import httptools_impl

from packages.lifeguard.tests.web import test_gate
from packages.lifeguard.tests.web.conftest import Log
from packages.lifeguard.tests.web.test_gate import PLACES, saturated
from packages.lifeguard.tests.web.wires import answers_to

SETTINGS = test_gate.SETTINGS

routes = APIRouter(prefix="/test")


@routes.post("/headers")
async def names_of_headers(request: Request) -> list[str]:
    await request.body()
    return request.headers.keys()


BIG = b"x" * 20_000_000


@routes.get("/big")
async def big() -> Response:
    return Response(BIG)


@routes.get("/endless")
async def endless() -> StreamingResponse:
    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b"."
            await asyncio.sleep(0.01)

    return StreamingResponse(drops())


@routes.get("/counted")
async def counted() -> StreamingResponse:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d " % number

    return StreamingResponse(numbers())


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
        assert (await client.answer())[0] == httpx.codes.BAD_REQUEST


async def test_of_those_that_arrive_together_no_more_pass_than_there_are_places(
    serving: Service, tasks: list[str]
) -> None:
    """They all find the queue as it was before the first of them has joined."""
    pool = serving.state["database"].primary
    async with AsyncExitStack() as open_wires:
        async with pool.acquire():
            shed = sum(pool.stats().shed.values())
            waiting = asyncio.create_task(pool.fetchval("SELECT 1"))
            await eventually(lambda: pool.stats().waiting == 1)
            crowd = [await open_wires.enter_async_context(wire(serving)) for _ in range(20)]
            for client in crowd:
                client.send(ORDINARY)
            await eventually(lambda: pool.stats().waiting == PLACES)
            # All have been judged, though they did not come in one turn of the loop.
            await eventually(lambda: sum(pool.stats().shed.values()) - shed == 20 - (PLACES - 1))
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


async def test_a_client_of_http_1_0_gets_no_chunks(serving: Service) -> None:
    answers = await answers_to(str(serving.client.base_url), [b"GET /test/counted HTTP/1.0\r\n\r\n"])
    assert [answer.body for answer in answers] == [b"0 1 2 "]
    assert "transfer-encoding" not in answers[0].headers


async def test_a_body_that_was_not_asked_for_ends_the_connection(serving: Service) -> None:
    """Whether it comes all the same, nobody could tell from the next request."""
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    (answer,) = await answers_to(str(serving.client.base_url), [head])
    assert (answer.status, answer.headers["connection"]) == (httpx.codes.NOT_FOUND, "close")


async def test_a_body_that_is_wanted_is_asked_for_once(serving: Service) -> None:
    head = b"POST /test/headers HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    head += b"Connection: close\r\nContent-Length: 5\r\n\r\n"
    answers = await answers_to(str(serving.client.base_url), [head, b"hello"])
    assert [answer.status for answer in answers] == [httpx.codes.CONTINUE, httpx.codes.OK]


HURRIED = ((protocol, "PATIENCE"), (connection, "LINGER"), (write_deadline, "WRITE_PATIENCE"))


class TestTheEndOfAConnection:
    """Whatever a client does or leaves undone, it holds its connection for a bounded time."""

    @pytest.fixture(autouse=True)
    def hurry(self, monkeypatch: pytest.MonkeyPatch, serving: Service) -> None:
        for room, name in HURRIED:
            monkeypatch.setattr(room, name, 0.3)
        monkeypatch.setattr(serving.server.config, "timeout_keep_alive", 0.3)

    @pytest.mark.parametrize(
        "request_head",
        [
            b"GET /items HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: %b\r\n\r\n" % (b"x" * 40_000),
            b"GET /items HTTP/1.1\r\n: nameless\r\n\r\n",
        ],
        ids=["refused", "too large", "unreadable"],
    )
    async def test_comes_after_the_last_word(self, serving: Service, request_head: bytes) -> None:
        async with saturated(serving), wire(serving) as client:
            others = open_connections(serving) - 1
            client.send(request_head)
            _, headers, _ = await client.answer()
            assert headers["connection"] == "close"
            assert await client.reader.read() == b""
            await eventually(lambda: open_connections(serving) == others)  # though this side is open

    @pytest.mark.parametrize("stray", [b"", b"\r\n"])
    async def test_comes_when_no_request_follows_an_answer(self, serving: Service, stray: bytes) -> None:
        async with wire(serving) as client:
            client.send(ORDINARY)
            await client.answer()
            client.send(stray)
            assert await asyncio.wait_for(client.reader.read(), 5) == b""

    async def test_comes_when_no_request_follows_the_late_body_of_one_refused(self, serving: Service) -> None:
        async with saturated(serving), wire(serving) as client:
            client.send(b"POST /items HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
            await client.answer()
            client.send(b"{}")
            assert await asyncio.wait_for(client.reader.read(), 5) == b""

    async def test_does_not_come_for_one_who_reads_slowly_but_reads(self, serving: Service) -> None:
        async with wire(serving) as client:
            client.send(b"GET /test/big HTTP/1.1\r\nHost: x\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
            for _ in range(10):
                await client.reader.readexactly(len(BIG) // 10)
                await asyncio.sleep(0.1)  # in all far longer than the patience with one who takes nothing

    async def test_ends_the_work_for_all_requests_that_it_carried(self, serving: Service) -> None:
        drain = serving.state["drain"]
        before = drain.in_flight
        async with wire(serving) as client:
            client.send(b"GET /test/endless HTTP/1.1\r\nHost: x\r\n\r\n" + ORDINARY)
            await client.reader.readuntil(b".")
            assert drain.in_flight == before + 1
        await eventually(lambda: drain.in_flight == before)


async def test_a_body_that_cannot_be_read_is_told_so_at_once(serving: Service) -> None:
    async with wire(serving) as client:
        client.send(b"POST /test/headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await eventually(lambda: serving.state["drain"].in_flight)
        client.send(b"no length\r\n")
        status, _, body = await client.answer()
    assert (status, json.loads(body)["type"]) == (httpx.codes.BAD_REQUEST, "/problems/bad-request")
    await eventually(lambda: not serving.state["drain"].in_flight)


async def test_what_follows_the_last_word_is_no_error_of_ours(serving: Service, log: Log) -> None:
    async with wire(serving) as client:
        long = b"POST /items HTTP/1.1\r\nTransfer-Encoding: chunked\r\nX-Long: %b\r\n\r\n" % (b"x" * 40_000)
        client.send(long + b"no length\r\n")
        status, *_ = await client.answer()
        assert await client.reader.read() == b""
    assert status == httpx.codes.REQUEST_HEADER_FIELDS_TOO_LARGE
    assert not [line for line in log() if line["level"] == "error"]


async def test_refusals_that_nobody_reads_do_not_pile_up(serving: Service) -> None:
    async with saturated(serving), wire(serving) as client:
        for _ in range(200):
            client.send(ORDINARY * 100)
        await eventually(lambda: any(connection.flow.write_paused for connection in connections(serving)))
        await asyncio.sleep(0.1)  # for more to come, if more came
        waiting = [connection.transport.get_write_buffer_size() for connection in connections(serving)]
    assert max(waiting) < 1_000_000  # what one read brings; the rest is not read


def connections(service: Service) -> list[protocol.Protocol]:
    found = service.server.server_state.connections
    return [connection for connection in found if isinstance(connection, protocol.Protocol)]


def open_connections(service: Service) -> int:
    return len(connections(service))
