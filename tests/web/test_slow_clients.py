"""Clients that are slow on purpose: they hold no connection for long, and are in nobody's way meanwhile."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.processes import ServiceProcess, running
from tests.servers import unused_port
from tests.waiting import eventually

PATIENCE = 0.5
CLIENTS = 10  # of each kind
SERVICE = f"""
from app.commands import cli
from app.web import middleware, protocol

protocol.PATIENCE = protocol.WRITE_PATIENCE = protocol.LINGER = middleware._BODY_PATIENCE = {PATIENCE}
cli(["serve"])
"""

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /metrics HTTP/1.1\r\nHost: x\r\n"
KINDS = {
    "says nothing": b"",
    "drips its head": GET + b"X-Slow: ",
    "drips its second head": GET + b"\r\n" + GET + b"X-Slow: ",
    "drips its body": POST + b"Content-Length: 100000\r\n\r\n",
    "drips a body that is refused": POST + b"Content-Length: 100000000\r\n\r\n",
    # More than the kernel buffers, which takes megabytes.
    "reads no answer": b"GET /pool/live HTTP/1.1\r\nHost: x\r\n\r\n" * 1000,
}
LISTENING = "0A"  # as /proc/net/tcp says it

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks the kernel who is connected")


@pytest.fixture(scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    variables = {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{unused_port()}/x", "LOG_LEVEL": "critical"}
    async with running(
        ["-c", SERVICE], cwd=tmp_path_factory.mktemp("service"), variables=variables
    ) as process:
        yield process


@pytest.mark.parametrize("kind", KINDS)
async def test_is_let_go(process: ServiceProcess, kind: str) -> None:
    port = urlsplit(process.url).port or 0
    all_connected = asyncio.Barrier(CLIENTS + 1)
    clients = [asyncio.create_task(be_slow(port, kind, all_connected)) for _ in range(CLIENTS)]
    try:
        await all_connected.wait()
        started = time.monotonic()
        assert (await process.get("/healthz")).status_code == 200
        assert time.monotonic() - started < 1
        await eventually(lambda: connections_to(port) == 0, 20 * PATIENCE)
    finally:
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)


async def be_slow(port: int, kind: str, all_connected: asyncio.Barrier) -> None:
    """Go on until somebody puts an end to it."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client, contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        await all_connected.wait()
        await loop.sock_sendall(client, KINDS[kind])
        while True:
            await asyncio.sleep(PATIENCE / 5)
            if "drips" in kind:
                await loop.sock_sendall(client, b"x")


def connections_to(port: int) -> int:
    """How many connections a process holds there; those that only the kernel still has do not count."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        int(local.rpartition(":")[2], 16) == port and state != LISTENING and inode != "0"
        for _, local, _, state, _, _, _, _, _, inode, *_ in lines
    )
