"""The network between a service and its database: a TCP proxy in a process of its own.

`python -m bench.strategies.network <port>` leads to that port of this machine. It writes its own port
on stdout. Each line on stdin is the jitter from then on, in seconds, and is answered by a line with
the number of connections to the server that were opened so far. It ends with its stdin.

Jitter of 0.2 s: each round trip takes 0 to 0.2 s longer: up to 0.1 s in either direction, drawn evenly for
each piece of data. Order is kept, as TCP keeps it. The TCP handshake is not delayed, which spares
each new connection a round trip.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

import uvloop
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"


class Network:
    """The process as the benchmark sees it. `port` is where services connect."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process.pid
        self._orders = cast("IO[str]", process.stdin)
        self._answers = cast("IO[str]", process.stdout)
        self.port = int(self._answers.readline())

    def set_jitter(self, seconds: float) -> int:
        """From now on; returns how many connections were opened so far."""
        self._orders.write(f"{seconds}\n")
        self._orders.flush()
        return int(self._answers.readline())


@contextmanager
def network_to(port: int) -> Iterator[Network]:
    """A network without jitter, to begin with."""
    command = [sys.executable, "-m", "bench.strategies.network", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Network(process)
        finally:
            process.kill()


class Proxy:
    """What all links share."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.jitter = 0.0
        self.opened = 0
        self.loop = asyncio.get_running_loop()
        self.opening: set[asyncio.Task[None]] = set()


class End(asyncio.Protocol):
    """One end of a link. What it receives goes out at the other one, later and in order."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._under_way: deque[bytes | None] = deque()
        """None is the end of the stream."""
        self._latest = 0.0
        self.transport: asyncio.Transport
        self.other: End | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        self._send(data)

    @override
    def connection_lost(self, _: Exception | None) -> None:
        self._send(None)

    def _send(self, data: bytes | None) -> None:
        self._under_way.append(data)
        proxy = self._proxy
        if not proxy.jitter and len(self._under_way) == 1:
            self._deliver()
            return
        due = proxy.loop.time() + random.uniform(0, proxy.jitter / 2)
        self._latest = max(self._latest, due)
        proxy.loop.call_at(self._latest, self._deliver)

    def _deliver(self) -> None:
        data = self._under_way.popleft()
        assert self.other
        if data is None:
            self.other.transport.close()
        elif not self.other.transport.is_closing():
            self.other.transport.write(data)


class ClientEnd(End):
    """The end that a service has connected to. What comes before the server is there waits for it."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._early: list[bytes | None] = []

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        task = self._proxy.loop.create_task(self._join())
        self._proxy.opening.add(task)
        task.add_done_callback(self._proxy.opening.discard)

    @override
    def _send(self, data: bytes | None) -> None:
        if self.other is None:
            self._early.append(data)
        else:
            super()._send(data)

    async def _join(self) -> None:
        proxy = self._proxy
        server = End(proxy)
        server.other = self
        try:
            await proxy.loop.create_connection(lambda: server, HOST, proxy.server_port)
        except OSError:
            self.transport.abort()
            return
        proxy.opened += 1
        self.other = server
        for data in self._early:
            self._send(data)


async def _serve(port: int) -> None:
    proxy = Proxy(port)
    listener = await proxy.loop.create_server(lambda: ClientEnd(proxy), HOST, 0, backlog=1024)
    orders = asyncio.StreamReader()
    await proxy.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print(listener.sockets[0].getsockname()[1], flush=True)
    while line := await orders.readline():
        proxy.jitter = float(line)
        print(proxy.opened, flush=True)


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
