"""A real HAProxy with deploy/haproxy/haproxy.cfg, on ports of the test's own."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

CONFIGURATION = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"


@dataclass
class Balancer:
    """Where clients come to, where its own numbers are, and its master process."""

    port: int
    inside: int
    configuration: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=10) as client:
            return await client.get(f"http://127.0.0.1:{self.inside}{path}")

    async def number(self, name: str) -> float:
        lines = (await self.ask("/metrics")).text.splitlines()
        return float(next(line.rpartition(" ")[2] for line in lines if line.startswith(name)))

    async def ready(self) -> bool:
        try:
            return (await self.ask("/ready")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return set(map(int, children.read_text().split()))

    async def reload(self) -> None:
        """As deploy/reload-haproxy does; until the process that takes connections is another one."""
        before = self.workers()
        self.process.send_signal(signal.SIGUSR2)
        await eventually(lambda: self.workers() - before)
        await eventually(self.ready)


@dataclass
class Names:
    """A resolver that knows one name: `app`."""

    addresses: list[str] = field(default_factory=lambda: ["127.0.0.1"])

    def answer(self, query: bytes) -> bytes:
        end = query.index(0, 12) + 5
        wanted = self.addresses if query[end - 4 : end - 2] == b"\0\1" else []  # A
        head = query[:2] + b"\x81\x80\0\1" + len(wanted).to_bytes(2) + bytes(4)
        records = (b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + socket.inet_aton(address) for address in wanted)
        return head + query[12:end] + b"".join(records)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        names = self

        class Resolver(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.transport = cast("asyncio.DatagramTransport", transport)  # uvloop's derives from another

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                self.transport.sendto(names.answer(data), addr)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", 0))
        try:
            yield transport.get_extra_info("sockname")[1]
        finally:
            transport.close()


def haproxy() -> str:
    found = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert found, "needs HAProxy (Debian: apt install haproxy)"
    return found


@asynccontextmanager
async def balancer(
    directory: Path,
    *,
    service: int,
    operators: int,
    names: Names | None = None,
    variables: Mapping[str, str] | None = None,
) -> AsyncIterator[Balancer]:
    """HAProxy in front of a replica on these ports; `variables` are those of its environment."""
    port, inside = unused_port(), unused_port()
    async with (names or Names()).serve() as resolver:
        text = CONFIGURATION.read_text()
        for ours, theirs in (
            ("bind :8000", f"bind 127.0.0.1:{port}"),
            ("bind :8405", f"bind 127.0.0.1:{inside}"),
            ("127.0.0.11:53", f"127.0.0.1:{resolver}"),
            ("app:8000 check port 8001", f"app:{service} check port {operators}"),
        ):
            assert ours in text, ours
            text = text.replace(ours, theirs)
        configuration = directory / "haproxy.cfg"
        configuration.write_text(text)
        shutil.copy(CONFIGURATION.with_name("wait.lua"), directory)
        output = directory / "haproxy.log"
        with _running(configuration, output, variables or {}) as process:
            running = Balancer(port, inside, configuration, process, output)
            try:
                await eventually(running.ready)
                yield running
            finally:
                sys.stdout.write(output.read_text())  # pytest shows it when the test fails


@contextmanager
def _running(
    configuration: Path, output: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    with ExitStack() as stack, output.open("wb") as log:
        process = subprocess.Popen(
            [haproxy(), "-W", "-db", "-f", configuration],  # as compose starts it
            env={**os.environ, **variables},
            stdout=log,
            stderr=log,
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        yield process
