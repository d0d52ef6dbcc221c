"""OPS_PORT: what operators ask is on that port and nowhere else, until the pools are closed."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from lifeguard.server.listening import CannotListen
from lifeguard.testing.clients import plain_client
from lifeguard.testing.processes import running
from lifeguard.testing.servers import unused_port
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.checkout import SAMPLE
from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings
from packages.lifeguard.tests.web.conftest import Log

OPERATORS = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/pool",
    "/pool/live",
    "/pool/leases",
    "/docs",
    "/openapi.json",
)
ANSWERS_NOBODY_ELSE = ("/pool/live/events",)
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "DELETE", "PROPFIND")
UNKNOWN = "/nothing-here"


UVICORN = f"import os, uvicorn; uvicorn.run('{SAMPLE}.main:app', port=int(os.environ['PORT']))"
WORKERS = """
import multiprocessing, os, threading, uvicorn

def end_with(parent):
    parent.join()
    os._exit(1)

if parent := multiprocessing.parent_process():  # a worker, which would outlive one that was killed
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
if __name__ == "__main__":
    uvicorn.run("packages.lifeguard.tests.sample.main:app", port=int(os.environ["PORT"]), workers=2)
"""


@dataclass
class Both:
    running: Service
    operators: httpx.AsyncClient


@asynccontextmanager
async def with_ops_port(settings: Settings) -> AsyncIterator[Both]:
    async with (
        service(settings) as running,
        plain_client(f"http://127.0.0.1:{settings.ops_port}") as operators,
    ):

        async def ready() -> bool:
            return (await operators.get("/readyz")).status_code == httpx.codes.OK

        await eventually(ready)
        yield Both(running, operators)


@pytest.fixture(scope="module")
async def both(module_database: str) -> AsyncIterator[Both]:
    async with with_ops_port(settings_for(module_database, ops_port=unused_port())) as both:
        yield both


def seen(answer: httpx.Response) -> tuple[object, ...]:
    """What a client can tell answers apart by, but for their own ids."""
    said = answer.json() | {"request_id": ""} if answer.content else None
    headers = {name: value for name, value in answer.headers.items() if name not in {"x-request-id", "date"}}
    return answer.status_code, headers, said


async def exchange(port: int, request: bytes) -> bytes:
    """What comes back for these bytes until the other side closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.mark.parametrize("path", OPERATORS)
async def test_operators_are_answered_on_their_port(both: Both, path: str) -> None:
    for method in ("GET", "HEAD"):
        assert (await both.operators.request(method, path)).status_code == httpx.codes.OK


@pytest.mark.parametrize("path", OPERATORS + ANSWERS_NOBODY_ELSE)
async def test_on_the_public_port_they_are_like_any_unknown_path(both: Both, path: str) -> None:
    for method in METHODS:
        answer = await both.running.client.request(method, path)
        unknown = await both.running.client.request(method, UNKNOWN)
        assert answer.status_code == httpx.codes.NOT_FOUND
        assert seen(answer) == seen(unknown)


async def test_nothing_that_a_client_says_makes_the_public_port_the_other(both: Both) -> None:
    public = both.running.client.base_url.port
    operators = both.operators.base_url.port
    assert public
    for line, host in (
        ("/metrics", f"127.0.0.1:{operators}"),
        (f"http://127.0.0.1:{operators}/metrics", f"127.0.0.1:{operators}"),
        ("/%6detrics", "x"),
        ("//metrics", "x"),
        ("/./metrics", "x"),
        ("/metrics;x", "x"),
        ("/metrics/", "x"),
        ("/METRICS", "x"),
    ):
        forwarded = (
            f"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Port: {operators}\r\nX-Forwarded-Host: {host}\r\n"
        )
        request = f"GET {line} HTTP/1.1\r\nHost: {host}\r\n{forwarded}Connection: close\r\n\r\n"
        answer = await exchange(public, request.encode())
        assert answer.startswith((b"HTTP/1.1 404 ", b"HTTP/1.1 400 ")), (line, answer)


@pytest.mark.parametrize("path", ["/items", "/items/1"])
async def test_requests_are_not_served_on_the_operators_port(both: Both, path: str) -> None:
    for method in METHODS:
        answer = await both.operators.request(method, path)
        assert answer.status_code == httpx.codes.NOT_FOUND
        if method != "HEAD":
            assert answer.json()["type"] == "/problems/not-found"
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert (await both.running.client.get("/items")).status_code == httpx.codes.OK


async def test_the_documentation_is_of_the_public_routes(both: Both) -> None:
    document = (await both.operators.get("/openapi.json")).json()
    assert "/items" in document["paths"]
    assert not set(OPERATORS) & set(document["paths"])


async def test_numbers_are_of_the_one_service(both: Both) -> None:
    await both.running.client.get("/items")
    text = (await both.operators.get("/metrics")).text
    assert 'handler="/items"' in text
    assert (await both.operators.get("/pool")).json()["pools"][0]["stats"]["name"] == "primary"


async def test_a_handshake_is_no_way_in(both: Both) -> None:
    for port in (both.running.client.base_url.port, both.operators.base_url.port):
        assert port
        handshake = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        request = f"GET /items HTTP/1.1\r\nHost: x\r\n{handshake}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        assert b" 101 " not in await asyncio.wait_for(reader.readline(), 10)
        writer.close()


async def test_it_answers_until_the_pools_are_closed(migrated_database: str) -> None:
    settings = settings_for(migrated_database, ops_port=unused_port())
    async with with_ops_port(settings) as both:
        pool = both.running.state["database"].primary
        async with pool.acquire():  # holds the end of the drain up
            await both.running.stop()
            with pytest.raises(httpx.ConnectError):
                await both.running.client.get("/items")
            answer = await both.operators.get("/readyz")
            assert (answer.status_code, answer.json()["status"]) == (503, "draining")
            assert "app_draining 1.0" in (await both.operators.get("/metrics")).text
            assert (await both.operators.get("/healthz")).status_code == httpx.codes.OK
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", settings.ops_port)
    assert pool.stats().closing_down


async def test_a_stream_to_an_operator_does_not_hold_up_the_end(migrated_database: str) -> None:
    settings = settings_for(migrated_database, ops_port=unused_port(), drain_streams=0.1)
    async with (
        with_ops_port(settings) as both,
        both.operators.stream("GET", "/pool/live/events") as stream,
    ):
        lines = stream.aiter_lines()
        await anext(lines)
        await both.running.stop()
        assert [line async for line in lines]  # to its end


async def test_a_port_that_is_taken_is_a_readable_refusal(migrated_database: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = settings_for(migrated_database, ops_port=taken.getsockname()[1])
        app = create_app(settings)
        with pytest.raises(CannotListen, match=r"is taken: stop what listens there, or set OPS_PORT"):
            async with app.router.lifespan_context(app):
                pass
        assert app.refusal


@pytest.mark.parametrize(
    "command",
    [
        ("-m", SAMPLE, "serve"),
        ("-m", SAMPLE, "dev"),
        ("-c", UVICORN),
    ],
    ids=["serve", "dev", "uvicorn"],
)
@pytest.mark.slow  # real processes
async def test_any_server_of_the_app_brings_it_along(
    migrated_database: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    ops_port = unused_port()
    variables = {"DATABASE_URL": migrated_database, "OPS_PORT": str(ops_port), "LOG_FORMAT": "json"}
    async with running(command, cwd=tmp_path, variables=variables, probed_on=ops_port) as process:
        assert (await process.get("/metrics")).status_code == httpx.codes.NOT_FOUND
        assert await process.end(signal.SIGTERM) == 0
    assert process.output.count("operators_served") == 1
    if "dev" in command:
        assert f"http://127.0.0.1:{ops_port}/pool/live" in process.output
    assert "Traceback" not in process.output


@pytest.mark.slow
async def test_workers_share_it_as_they_share_the_port_of_requests(
    migrated_database: str, tmp_path: Path
) -> None:
    ops_port = unused_port()
    (tmp_path / "serve.py").write_text(WORKERS)
    variables = {"DATABASE_URL": migrated_database, "OPS_PORT": str(ops_port), "LOG_FORMAT": "json"}
    async with running(["serve.py"], cwd=tmp_path, variables=variables, probed_on=ops_port) as process:
        await eventually(lambda: process.output.count("operators_served") == 2)
        assert "is taken" not in process.output
        await process.end(signal.SIGTERM)


def test_it_must_not_be_the_port_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="OPS_PORT=8000: must differ from PORT=8000"):
        Settings(ops_port=8000)


async def test_without_it_everything_is_on_one_port(migrated_database: str, log: Log) -> None:
    async with service(settings_for(migrated_database, log_level="info")) as running:
        await until_ready(running)
        for path in OPERATORS:
            assert (await running.client.get(path)).status_code == httpx.codes.OK
    assert not [line for line in log() if line["event"] == "operators_served"]
