"""What deploy/haproxy/haproxy.cfg does, with a real HAProxy before the real service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, Request
from lifeguard.testing.clients import plain_client
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

from tests.deploy.balancer import Balancer, balancer
from tests.inside import service, settings_for

pytestmark = pytest.mark.deploy

routes = APIRouter()


@routes.get("/who")
async def who(request: Request) -> dict[str, str]:
    """What the service is told of a client."""
    told = ("forwarded", "x-forwarded", "x-real-ip", "x_")
    return {name: value for name, value in request.headers.items() if name.startswith(told)}


@routes.get("/metrics-of-mine")
@routes.get("/pool-parties/{name:path}")
async def own() -> str:
    return "mine"


@asynccontextmanager
async def in_front(
    database_url: str, directory: Path, operators: int, **variables: str
) -> AsyncIterator[Balancer]:
    async with service(settings_for(database_url, ops_port=operators), routes=routes) as running:
        port = running.client.base_url.port
        assert port
        async with balancer(directory, service=port, operators=operators, variables=variables) as front:
            yield front


@pytest.fixture(scope="module")
def operators() -> int:
    return unused_port()


@pytest.fixture(scope="module")
async def front(
    module_database: str, operators: int, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Balancer]:
    async with in_front(module_database, tmp_path_factory.mktemp("haproxy"), operators) as front:
        yield front


async def exchange(port: int, request: bytes) -> bytes:
    """What comes back for these bytes until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def get(path: str, *headers: str, host: str = "ledger.example.com", method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


INSIDE = ("/metrics", "/pool", "/pool/live", "/pool/leases", "/readyz", "/healthz", "/docs", "/openapi.json")
SPELLINGS = (
    *INSIDE,
    *(
        "/%6detrics",
        "/%6Detrics",
        "/metric%73",
        "/%256detrics",
        "/%2fmetrics",
        "/%2e/metrics",
        "/.%2fmetrics",
    ),
    *("//pool", "///pool", "//metrics", "/pool//live", "/./metrics", "/x/../metrics", "/../metrics"),
    *(
        "/v1/../pool",
        "/v1/%2e%2e/pool",
        "/v1/..;/pool",
        "/..%2fmetrics",
        "/pool;x",
        "/metrics;",
        "/;/metrics",
    ),
    *("/pool;x=/live", "/pool/", "/metrics/", "/METRICS", "/Metrics", "/metrics?x", "/metrics?", "/pool%3f"),
    *(
        "/metrics%20",
        "/metrics%00",
        "/metrics%0a",
        "/metrics%23",
        "/metrics#",
        "/m%65trics?a=/v1",
        "\\metrics",
    ),
    *("/\\metrics", "/%5cmetrics", "/%c0%afmetrics", "/%e2%84%b3etrics", "/pool%2flive", "/pool%2Flive"),
    *(
        "http://127.0.0.1/metrics",
        "http://x/%6detrics",
        "https://x/metrics",
        "http:///metrics",
        "*",
        "metrics",
    ),
)


def requests(operators: int) -> list[bytes]:
    """Everything that somebody may try who knows where the operators' port is."""
    inside = f"127.0.0.1:{operators}"
    tries = [get(path) for path in SPELLINGS]
    tries += [get(path, host=inside) for path in INSIDE]
    tries += [get(f"http://{inside}{path}", host=inside) for path in INSIDE]
    tries += [get("/metrics", method=method) for method in ("HEAD", "OPTIONS", "POST", "TRACE", "get")]
    tries += [
        get("/metrics", *headers, host=host)
        for headers, host in (
            (("X-Original-URL: /metrics", "X-Rewrite-URL: /metrics"), "x"),
            ((f"X-Forwarded-Host: {inside}", f"X-Forwarded-Port: {operators}"), "x"),
            (("X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1"), "localhost"),
            ((f"Host: {inside}",), "x"),
            (("X-Forwarded-Prefix: /metrics",), "x"),
            (("X-HTTP-Method-Override: GET",), "x"),
        )
    ]
    tries.append(get(f"{inside}", method="CONNECT"))
    tries.append(b"GET /metrics HTTP/1.0\r\n\r\n")
    tries.append(b"GET /metrics\r\n\r\n")
    tries.append(
        get(
            "/metrics",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        )
    )
    tries.append(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    both = "POST /who HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nTransfer-Encoding: {}\r\n\r\n0\r\n\r\n"
    tries += [both.format(5, "chunked").encode() + smuggled, both.format(5, "xchunked").encode() + smuggled]
    return tries


async def test_no_request_gets_at_what_is_for_operators(front: Balancer, operators: int) -> None:
    for request in requests(operators):
        answer = await exchange(front.port, request)
        assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2", b"HTTP/1.1 3", b"HTTP/1.1 101")), request
        for word in (
            b"python_info",
            b'"pools"',
            b'"alive"',
            b'"leases"',
            b'"openapi"',
            b"db_client_connection",
        ):
            assert word not in answer, request
    # Were it one app on one port, several of these spellings would have been answered.
    for path in (*INSIDE, "/%6detrics", "/metric%73", "/metrics?x", "/pool%2flive"):
        assert (await exchange(operators, get(path))).startswith(b"HTTP/1.1 200 "), path


@pytest.mark.parametrize(
    "path",
    [
        "/metrics-of-mine",
        "/pool-parties/a/b",
        "/pool-parties/%2e%2e/x",
        "/who",
        "/items",
        "/metrics-%6ff-mine",
    ],
)
async def test_a_new_route_of_the_service_needs_no_word_here(front: Balancer, path: str) -> None:
    assert (await exchange(front.port, get(path))).startswith(b"HTTP/1.1 200 ")


async def test_an_unknown_path_is_the_service_s_own_problem(front: Balancer) -> None:
    async with plain_client(front.url) as client:
        hidden, unknown = [await client.get(path) for path in ("/metrics", "/nothing-here")]
    assert hidden.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    assert unknown.json()["type"] == "/problems/not-found"


async def test_the_service_learns_who_it_was_from_haproxy_alone(front: Balancer) -> None:
    lies = {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7", "X-Real-IP": "203.0.113.7"}
    lies |= {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    async with plain_client(front.url) as client:
        said = (await client.get("/who", headers=lies)).json()
    assert said == {"x-forwarded-for": "127.0.0.1"}


async def held(front: Balancer, count: int) -> list[asyncio.StreamWriter]:
    """Connections that have been served once, and stay."""
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"}"), 10)
        writers.append(writer)
    return writers


async def status(front: Balancer) -> int:
    """Of one request on a connection of its own; 0: closed without an answer."""
    answer = await exchange(front.port, get("/who"))
    return int(answer.split()[1]) if answer else 0


async def test_one_address_has_its_share_of_the_connections_and_no_more(
    migrated_database: str, tmp_path: Path
) -> None:
    async with in_front(migrated_database, tmp_path, unused_port(), CLIENT_CONNECTIONS="3") as front:
        writers = await held(front, 3)
        answer = await exchange(front.port, get("/who"))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429 ")
        assert b"retry-after: 10" in head.lower()
        assert b"content-type: application/problem+json" in head.lower()
        assert b'"status":429' in body
        writers[0].write(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")  # those that were there first go on
        assert (await front.ask("/ready")).status_code == httpx.codes.OK  # and so does who looks from inside
        writers.pop().close()
        await eventually(lambda: is_served(front))

        async def is_cut_off() -> bool:
            """Silent ones are closed after a while, so all are there at once."""
            opening = (asyncio.open_connection("127.0.0.1", front.port) for _ in range(110))
            silent = [writer for _, writer in await asyncio.gather(*opening)]
            try:
                return await status(front) == 0
            finally:
                for writer in silent:
                    writer.close()

        await eventually(is_cut_off)
        for writer in writers:
            writer.close()
        await eventually(lambda: is_served(front))


async def is_served(front: Balancer) -> bool:
    return await status(front) == httpx.codes.OK


async def test_one_address_may_not_open_connections_as_fast_as_it_likes(
    migrated_database: str, tmp_path: Path
) -> None:
    async with in_front(migrated_database, tmp_path, unused_port(), CLIENT_CONNECTIONS_IN_10S="5") as front:
        statuses = [await status(front) for _ in range(15)]
    assert statuses == [200] * 5 + [429] * 6 + [0] * 4


async def test_behind_a_balancer_the_clients_are_those_that_it_names(
    migrated_database: str, tmp_path: Path
) -> None:
    variables = {"PROXY_PROTOCOL": "on", "CLIENT_CONNECTIONS_IN_10S": "2"}
    async with in_front(migrated_database, tmp_path, unused_port(), **variables) as front:
        for client in ("203.0.113.7", "203.0.113.8"):
            head = f"PROXY TCP4 {client} 127.0.0.1 5555 80\r\n".encode()
            answers = [await exchange(front.port, head + get("/who")) for _ in range(3)]
            assert [answer.split()[1] for answer in answers] == [b"200", b"200", b"429"]
            assert f'"x-forwarded-for":"{client}"'.encode() in answers[0]
        assert not await exchange(front.port, get("/who"))  # without it


class Strict:
    """Clients that ask all the time on connections that they keep, each request once."""

    def __init__(self, front: Balancer) -> None:
        self._front = front
        self.served = 0
        self.lost: list[str] = []

    async def is_served(self, more: int) -> None:
        enough = self.served + more
        await eventually(lambda: self.served >= enough)

    async def ask(self) -> None:
        async with httpx.AsyncClient(base_url=self._front.url, timeout=20) as client:
            while True:
                try:
                    answer = await client.get("/who")
                except httpx.TransportError as error:
                    self.lost.append(repr(error))
                    continue
                if answer.status_code == httpx.codes.OK:
                    self.served += 1
                else:
                    self.lost.append(answer.text)


@contextlib.asynccontextmanager
async def clients(front: Balancer, count: int) -> AsyncIterator[Strict]:
    strict = Strict(front)
    tasks = [asyncio.create_task(strict.ask()) for _ in range(count)]
    try:
        yield strict
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_reload_loses_no_request(migrated_database: str, tmp_path: Path) -> None:
    async with in_front(migrated_database, tmp_path, unused_port()) as front, clients(front, 5) as strict:
        for _ in range(3):
            await front.reload()
            await strict.is_served(100)
    assert strict.lost == []
    assert strict.served > 300


async def test_a_reload_cuts_no_connection_that_is_idle(migrated_database: str, tmp_path: Path) -> None:
    async with in_front(migrated_database, tmp_path, unused_port()) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        for connection in (b"keep-alive", b"close"):
            writer.write(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            await reader.readuntil(b"}")
            assert (b"connection: close" in head) == (connection == b"close")
            await front.reload()
        assert await reader.read() == b""
        writer.close()


async def test_a_request_waits_for_a_replica_that_is_about_to_be_ready(tmp_path: Path) -> None:
    """And is told when there is none."""
    replica, operators = unused_port(), unused_port()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    async def serve() -> AsyncExitStack:
        stack = AsyncExitStack()
        for port in (replica, operators):
            server = await asyncio.start_server(answer, "127.0.0.1", port)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
        return stack

    first = await serve()
    async with balancer(tmp_path, service=replica, operators=operators) as front:
        await first.aclose()

        async def nobody_is_ready() -> bool:
            return not await front.ready()

        await eventually(nobody_is_ready)
        request = asyncio.create_task(exchange(front.port, get("/")))
        async with await serve():
            assert (await request).startswith(b"HTTP/1.1 200 ")
        await eventually(nobody_is_ready)
        refused = await exchange(front.port, get("/"))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"application/problem+json" in refused
        assert b"retry-after: 1" in refused.lower()
