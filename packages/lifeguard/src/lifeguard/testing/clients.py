"""Clients of a service on this machine. Needs httpx."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from lifeguard.testing.waiting import eventually

# Knows no CA: to read those of the system takes longer than most tests, and nothing here speaks TLS.
_NO_CAS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def plain_client(url: str | httpx.URL, *, timeout: float | None = 60) -> httpx.AsyncClient:
    """A client of an `http://` URL. `timeout` is of each step of a request, in seconds: much, for a busy
    machine."""
    return httpx.AsyncClient(base_url=url, timeout=timeout, verify=_NO_CAS)


class Clients:
    """Connections that ask again and again, and the statuses they got."""

    def __init__(self, url: str, path: str, timeout: str | None = None) -> None:
        self._url = url
        self._path = path
        self._headers = {"X-Request-Timeout": timeout} if timeout else {}
        self.statuses: list[int] = []

    @asynccontextmanager
    async def asking(self, connections: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._ask()) for _ in range(connections)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def answers(self, number: int) -> None:
        """Wait until so many more have come."""
        enough = len(self.statuses) + number
        await eventually(lambda: len(self.statuses) >= enough)

    async def _ask(self) -> None:
        async with plain_client(self._url, timeout=30) as client:
            while True:
                with suppress(httpx.TransportError):
                    answer = await client.get(self._path, headers=self._headers)
                    self.statuses.append(answer.status_code)
