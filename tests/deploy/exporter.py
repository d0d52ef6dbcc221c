"""A real HAProxy with the exporter and the names of `deploy/haproxy/haproxy.cfg`, in front of one server."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

CONFIGURATION = """
global
    maxconn 200
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    retries 1
frontend public
    bind 127.0.0.1:{port}
    default_backend service
backend service
    option httpchk GET /readyz
    server app1 {target} check inter 100ms fall 1 rise 1
    server-template app 2-3 {target} check disabled
frontend metrics
    bind 127.0.0.1:{exporter}
    http-request use-service prometheus-exporter if {{ path /metrics }}
"""


@dataclass
class Balancer:
    client: httpx.AsyncClient
    """Sends requests to its frontend `public`."""
    exporter: str
    """Where it is scraped: host and port."""
    socket: Path

    async def tell(self, command: str) -> None:
        """Say something on its own socket, like `set server service/app1 state maint`."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        writer.write(f"{command}\n".encode())
        writer.write_eof()
        assert (await reader.read()).strip() == b""
        writer.close()
        await writer.wait_closed()

    async def metrics(self) -> str:
        return (await self.client.get(f"http://{self.exporter}/metrics")).text


@asynccontextmanager
async def balancing(target: str, directory: Path) -> AsyncIterator[Balancer]:
    """Put HAProxy before `target` (host:port), as long as the block runs."""
    executable = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
    assert executable, "needs HAProxy (Debian: apt install haproxy)"
    port, exporter, socket = unused_port(), unused_port(), directory / "haproxy.sock"
    file = directory / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(port=port, exporter=exporter, target=target, socket=socket))
    process = await asyncio.create_subprocess_exec(
        executable, "-db", "-q", "-f", str(file), stdout=sys.stderr, stderr=sys.stderr
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            balancer = Balancer(client, f"127.0.0.1:{exporter}", socket)

            async def serves() -> bool:
                assert process.returncode is None, "HAProxy has ended"
                try:
                    return (await client.get("/readyz")).is_success
                except httpx.TransportError:
                    return False

            await eventually(serves)
            yield balancer
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
