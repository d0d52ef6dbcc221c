"""Clients that are slow on purpose: they hold no connection for long, and are in nobody's way meanwhile."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lifeguard.server import protocol, write_deadline
from lifeguard.testing.processes import ServiceProcess, running
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually
from lifeguard.web import middleware

from packages.lifeguard.tests.inside import service, settings_for

PATIENCE = 0.5
CLIENTS = 10  # of each kind
LONG = 50.0
SERVICE = f"""
from packages.lifeguard.tests.sample.commands import cli
from lifeguard.web import middleware
from lifeguard.server import connection, protocol, write_deadline

protocol.PATIENCE = connection.LINGER = {PATIENCE}
write_deadline.WRITE_PATIENCE = middleware._BODY_PATIENCE = {PATIENCE}
cli(["serve"])
"""

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /metrics HTTP/1.1\r\nHost: x\r\n"
KINDS = {
    "says nothing": b"",
    "drips its head": GET + b"X-Slow: ",
    "drips its second head": GET + b"\r\n" + GET + b"X-Slow: ",
    "drips its body": POST + b"Content-Length: 50000\r\n\r\n",
    "drips a body that is refused": POST + b"Content-Length: 100000000\r\n\r\n",
    # More than the kernel buffers, which takes megabytes.
    "reads no answer": b"GET /pool/live HTTP/1.1\r\nHost: x\r\n\r\n" * 1000,
}
LISTENING = "0A"  # as /proc/net/tcp says it

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks the kernel who is connected")


NOWHERE = "postgresql://nobody@127.0.0.1:{}/x"


@pytest.fixture(scope="module")
async def process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServiceProcess]:
    variables = {"DATABASE_URL": NOWHERE.format(unused_port()), "LOG_LEVEL": "critical"}
    async with running(
        ["-c", SERVICE], cwd=tmp_path_factory.mktemp("service"), variables=variables
    ) as process:
        yield process


@contextlib.asynccontextmanager
async def slow_clients(url: str, kind: str) -> AsyncIterator[int]:
    """The port that they are connected to."""
    port = urlsplit(url).port or 0
    all_connected = asyncio.Barrier(CLIENTS + 1)
    clients = [asyncio.create_task(be_slow(port, kind, all_connected)) for _ in range(CLIENTS)]
    try:
        await all_connected.wait()
        yield port
    finally:
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)


@pytest.mark.parametrize("kind", KINDS)
async def test_is_let_go(process: ServiceProcess, kind: str) -> None:
    async with slow_clients(process.url, kind) as port:
        await eventually(lambda: connections_to(port) == 0, LONG)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "refused" not in kind])
async def test_is_in_nobodys_way(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are answered while the slow ones are still there, not because these were let go."""
    for module, name in (
        (protocol, "PATIENCE"),
        (write_deadline, "WRITE_PATIENCE"),
        (middleware, "_BODY_PATIENCE"),
    ):
        monkeypatch.setattr(module, name, LONG)
    async with service(settings_for(NOWHERE.format(unused_port()))) as serving:
        async with slow_clients(str(serving.client.base_url), kind) as port:
            answer = await serving.client.get("/healthz", headers={"Connection": "close"})
            assert answer.status_code == 200
            await eventually(lambda: connections_to(port) <= CLIENTS)  # without the one just used
            assert connections_to(port) == CLIENTS
        await eventually(lambda: connections_to(port) == 0, LONG)


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
