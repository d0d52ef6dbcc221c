"""What one client, and all together, can make the process hold: each has a bound, and so has the sum."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import StreamingResponse
from lifeguard.server import connection, socket_protocol, write_deadline
from lifeguard.server.protocol import Protocol
from lifeguard.server.socket_protocol import SocketProtocol
from lifeguard.testing.clients import plain_client
from lifeguard.testing.serving import Service
from lifeguard.testing.waiting import eventually
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from packages.lifeguard.tests.web.test_protocol import Wire
from packages.lifeguard.tests.web.wires import answers_to

MOST = 100_000
SETTINGS = {"max_body_bytes": 60_000}
routes = APIRouter(prefix="/buffered")
gate = asyncio.Event()
heard: list[Any] = []


@routes.post("/body")
async def body(request: Request) -> int:
    size = len(await request.body())
    await gate.wait()
    return size


@routes.get("/wait")
async def wait() -> str:
    await gate.wait()
    return "waited"


@routes.post("/unread")
async def unread() -> str:
    await gate.wait()
    return "unread"


@routes.get("/drops")
async def drops() -> StreamingResponse:
    async def thousands() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    return StreamingResponse(thousands())


@routes.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await gate.wait()
    await socket.accept()
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            heard.append(message.get("code"))
            return
        heard.append(message.get("text") or message.get("bytes"))
        if heard[-1] == "wait":
            await asyncio.Event().wait()


@asynccontextmanager
async def wire(service: Service) -> AsyncIterator[Wire]:
    """Ends at once: what is not sent yet would never be, where nobody reads it."""
    url = service.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture(autouse=True)
def opened() -> Iterable[None]:
    gate.set()
    heard.clear()
    yield
    gate.set()


@pytest.fixture
def little(serving: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with MAX_BUFFERED_BYTES=100000, which one read may exceed."""
    monkeypatch.setattr(serving.state["buffered"], "most", MOST)


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def connections(service: Service) -> list[Any]:
    return list(service.server.server_state.connections)


def held(service: Service) -> int:
    return service.state["buffered"].used


@pytest.mark.usefixtures("little")
class TestBodies:
    async def test_beyond_the_sum_are_refused_while_the_rest_goes_on(self, serving: Service) -> None:
        gate.clear()
        async with wire(serving) as one, wire(serving) as other:
            one.send(post("/buffered/body", b"x" * 50_000))
            await eventually(lambda: held(serving) == 50_000)
            other.send(post("/buffered/body", b"x" * 51_000))
            status, headers, told = await other.answer()
            assert (status, json.loads(told)["type"]) == (503, "/problems/overloaded")
            assert (headers["retry-after"], headers["connection"]) == ("1", "close")
            assert (await serving.client.get("/healthz")).status_code == httpx.codes.OK
            gate.set()
            assert (await one.answer())[2] == b"50000"
        await eventually(lambda: held(serving) == 0)

    async def test_of_no_stated_length_are_refused_as_soon_as_they_are_too_much(
        self, serving: Service
    ) -> None:
        gate.clear()
        async with wire(serving) as one, wire(serving) as other:
            one.send(post("/buffered/body", b"x" * 50_000))
            await eventually(lambda: held(serving) == 50_000)
            other.send(b"POST /buffered/body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            other.send(b"c800\r\n%b\r\n" % (b"x" * 0xC800))
            assert (await other.answer())[0] == httpx.codes.SERVICE_UNAVAILABLE
            gate.set()
            await one.answer()
        await eventually(lambda: held(serving) == 0)


async def test_bodies_that_nobody_reads_are_not_read_from_the_connection_either(serving: Service) -> None:
    gate.clear()
    async with wire(serving) as client:
        client.send(b"POST /buffered/unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"c800\r\n%b\r\n" % (b"x" * 0xC800) * 100)
        await eventually(lambda: any(c.flow.read_paused for c in connections(serving)))
        assert held(serving) < 1_000_000
        gate.set()
    await eventually(lambda: held(serving) == 0)


@pytest.mark.usefixtures("little")
async def test_the_sum_holds_for_bodies_without_the_protocol(serving: Service) -> None:
    """As uvicorn starts the app alone."""
    async with plain(serving) as url:
        gate.clear()
        async with plain_client(url) as client:
            first = asyncio.create_task(client.post("/buffered/body", content=b"x" * 50_000))
            await eventually(lambda: held(serving) == 50_000)
            refused = await client.post("/buffered/body", content=b"x" * 51_000)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            gate.set()
            assert (await first).text == "50000"
    await eventually(lambda: held(serving) == 0)


@asynccontextmanager
async def plain(service: Service) -> AsyncIterator[str]:
    config = uvicorn.Config(service.app, lifespan="off", log_config=None, port=0)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    server.lifespan.state = service.server.lifespan.state  # which the service's own server ends
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        await server.shutdown()


class TestPipelines:
    async def test_are_read_no_further_than_a_bound_while_answers_are_under_way(
        self, serving: Service
    ) -> None:
        gate.clear()
        async with wire(serving) as client:
            client.send(b"GET /buffered/wait HTTP/1.1\r\nHost: x\r\n\r\n" * 200_000)
            await eventually(lambda: any(c.flow.read_paused for c in connections(serving)))
            (busy,) = [c for c in connections(serving) if c.flow.read_paused]
            assert len(busy.pipeline) == 0  # as bytes they cost a hundredth
            assert held(serving) < 1_000_000

    @pytest.mark.usefixtures("little")
    async def test_that_are_too_much_with_all_others_end_with_the_answer(self, serving: Service) -> None:
        gate.clear()
        async with wire(serving) as client, wire(serving) as other:
            client.send(b"GET /buffered/wait HTTP/1.1\r\nHost: x\r\n\r\n" * 200_000)
            await eventually(lambda: any(c._deaf for c in connections(serving) if isinstance(c, Protocol)))
            other.send(post("/buffered/body", b"x" * 50_000))
            await eventually(lambda: held(serving) == 50_000)
            gate.set()
            assert (await other.answer())[0] == httpx.codes.OK
            status, headers, _ = await client.answer()
            assert (status, headers["connection"]) == (200, "close")
            assert await client.reader.read() == b""

    @pytest.mark.parametrize("path", ["/openapi.json", "/buffered/drops"])
    async def test_are_not_answered_any_further_than_somebody_reads(
        self, serving: Service, path: str
    ) -> None:
        async with wire(serving) as client:
            client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode() * 20_000)
            await eventually(lambda: any(c.flow.write_paused for c in connections(serving)))
            sizes = [c.transport.get_write_buffer_size() for c in connections(serving)]
            assert max(sizes) < 200_000
            assert held(serving) < 1_000_000

    async def test_leave_others_their_turn(self, serving: Service) -> None:
        async with wire(serving) as client, wire(serving) as other:
            client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000)
            await client.answer()
            other.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await other.answer())[0] == httpx.codes.OK
            assert any(c._unread for c in connections(serving))

    async def test_before_an_upgrade_are_answered_before_it(self, serving: Service) -> None:
        upgrade = (
            b"GET /buffered/socket HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with wire(serving) as client:
            client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + upgrade)
            assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
            assert (await client.reader.readline()).startswith(b"HTTP/1.1 101 ")


class TestHeads:
    @pytest.mark.usefixtures("little")
    async def test_that_are_too_much_with_all_others_are_refused(self, serving: Service) -> None:
        wires: list[Wire] = []
        head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 30_000
        async with wire(serving) as a, wire(serving) as b, wire(serving) as c, wire(serving) as d:
            wires = [a, b, c]
            for number, client in enumerate(wires, 1):
                client.send(head)
                await eventually(lambda number=number: held(serving) == number * len(head))  # type: ignore[misc]
            d.send(head)
            status, _, told = await d.answer()
            assert (status, json.loads(told)["type"]) == (503, "/problems/overloaded")
            assert (await serving.client.get("/healthz")).status_code == httpx.codes.OK
            a.send(b"\r\n\r\n")
            assert (await a.answer())[0] == httpx.codes.OK
        await eventually(lambda: held(serving) == 0)

    async def test_trailers_are_dropped_and_counted_while_they_come(self, serving: Service) -> None:
        async with wire(serving) as client:
            client.send(b"POST /buffered/body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            client.send(b"A: " + b"x" * 30_000)
            await eventually(lambda: held(serving) > 30_000)
            client.send(b"\r\n\r\n")
            assert (await client.answer())[0] == httpx.codes.OK
        await eventually(lambda: held(serving) == 0)


class TestConnections:
    async def test_beyond_the_most_are_told_so_and_closed(
        self, serving: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = str(serving.client.base_url)
        async with wire(serving) as first:
            first.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await first.answer()
            monkeypatch.setattr(connection, "MOST_CONNECTIONS", len(connections(serving)))
            (answer,) = await answers_to(url, [])
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            first.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await first.answer())[0] == httpx.codes.OK

    async def test_are_fewer_than_the_files_that_may_be_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 1024))
        assert connection.most_connections() == 768


class TestSockets:
    """A client that follows no rule but the framing."""

    @staticmethod
    @asynccontextmanager
    async def raw(serving: Service) -> AsyncIterator[tuple[Wire, SocketProtocol]]:
        url = f"ws://{serving.client.base_url.netloc.decode()}/buffered/socket"
        client = ClientProtocol(parse_uri(url))
        client.send_request(client.connect())
        async with wire(serving) as connection:
            connection.send(b"".join(client.data_to_send()))
            await eventually(lambda: any(isinstance(c, SocketProtocol) for c in connections(serving)))
            (served,) = [c for c in connections(serving) if isinstance(c, SocketProtocol)]
            if gate.is_set():
                await connection.reader.readuntil(b"\r\n\r\n")
            yield connection, served

    @staticmethod
    def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
        return Frame(opcode, data, fin).serialize(mask=True)

    async def test_pings_are_not_read_while_pongs_are_not(self, serving: Service) -> None:
        async with self.raw(serving) as (client, served):
            client.send(self.frame(Opcode.PING, b"x" * 125) * 100_000)
            await eventually(lambda: not served.writable.is_set())
            assert served.transport.get_write_buffer_size() < 200_000

    async def test_end_when_nobody_takes_what_they_are_sent(
        self, serving: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(write_deadline, "WRITE_PATIENCE", 0.1)
        async with self.raw(serving) as (client, served):
            client.send(self.frame(Opcode.PING, b"x" * 125) * 100_000)
            await eventually(lambda: served not in connections(serving))

    async def test_fragments_of_a_message_are_kept_as_one(self, serving: Service) -> None:
        async with self.raw(serving) as (client, served):
            client.send(self.frame(Opcode.TEXT, b"a", fin=False))
            client.send(self.frame(Opcode.CONT, b"", fin=False) * 2000)
            await eventually(lambda: served._message == b"a" and not served._unread)
            assert served.frames == []
            client.send(self.frame(Opcode.CONT, b"b"))
            await eventually(lambda: "ab" in heard)

    async def test_messages_that_the_app_does_not_take_are_not_read(self, serving: Service) -> None:
        async with self.raw(serving) as (client, served):
            client.send(self.frame(Opcode.TEXT, b"wait") + self.frame(Opcode.TEXT, b"x") * 30_000)
            await eventually(lambda: "wait" in heard)
            assert served.queue.qsize() <= socket_protocol._MOST_A_TURN // len(self.frame(Opcode.TEXT, b"x"))
            assert served.read_paused

    async def test_what_comes_before_the_handshake_is_answered_waits_for_it(self, serving: Service) -> None:
        gate.clear()
        async with self.raw(serving) as (client, served):
            client.send(self.frame(Opcode.TEXT, b"early"))
            await eventually(lambda: len(served._unread) > 0)
            gate.set()
            await eventually(lambda: "early" in heard)

    async def test_a_message_that_is_too_large_closes_it(self, serving: Service) -> None:
        async with connect(f"ws://{serving.client.base_url.netloc.decode()}/buffered/socket") as client:
            await client.send(["x" * 1000] * 70)
            await client.wait_closed()
            assert client.close_code == 1009
