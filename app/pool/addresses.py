"""The addresses behind a host's name, and how to reach one of them under that name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any


def is_name(host: str) -> bool:
    """Whether the host has to be resolved: it is neither an address nor a socket's directory."""
    if host.startswith("/"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name in the resolver's order (RFC 6724). Raises OSError when it has none."""
    return list(dict.fromkeys(str(address[0]) for *_, address in await lookup(host, port)))


async def lookup(host: str, port: int) -> list[tuple[Any, ...]]:
    """What the system's resolver says, in a thread of its own."""
    found: list[Any] = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return found


class RedirectedLoop:
    """The running event loop, whose connections to a host go to one of its addresses.

    asyncpg connects to the name it verifies the certificate against, and resolves it by itself. Given
    to `asyncpg.connect(loop=...)` this keeps the two apart: the name stays the server's, in TLS too.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str) -> None:
        self._loop = loop
        self._address = address
        self.create_future = loop.create_future  # what every statement asks for, without the way around
        self.call_later = loop.call_later

    async def create_connection(self, factory: Any, host: str, port: int, **options: Any) -> Any:
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        return await self._loop.create_connection(factory, self._address, port, **options)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loop's own."""
        return getattr(self._loop, name)
