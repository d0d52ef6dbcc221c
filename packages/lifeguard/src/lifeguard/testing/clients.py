"""Clients that ask again and again. Needs httpx."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx

from lifeguard.testing.waiting import eventually


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
        await eventually(lambda: len(self.statuses) >= enough, 20)

    async def _ask(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=30) as client:
            while True:
                with suppress(httpx.TransportError):
                    answer = await client.get(self._path, headers=self._headers)
                    self.statuses.append(answer.status_code)
