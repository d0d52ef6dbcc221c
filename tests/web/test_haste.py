"""Clients in a hurry, and a process that was stopped: neither says that the database is gone."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.inside import Service
from tests.processes import running
from tests.waiting import eventually

SETTINGS = {"pool_max_size": 2, "breaker_fail_max": 2}


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


@pytest.mark.parametrize(("timeout", "expected"), [("0.001", {400}), ("0.01", {200, 503, 504})])
async def test_five_connections_in_a_hurry_open_no_breaker(
    serving: Service, timeout: str, expected: set[int]
) -> None:
    url = str(serving.client.base_url)
    hasty, normal = Clients(url, "/items", timeout), Clients(url, "/items?limit=1000")
    async with hasty.asking(5), normal.asking(5):
        await hasty.answers(100)
        await normal.answers(20)
    assert set(hasty.statuses) <= expected
    assert normal.statuses.count(200) > 0.9 * len(normal.statuses)
    assert not serving.state["database"].breaker.transitions


async def test_a_process_that_was_stopped_opens_no_breaker(module_database: str, tmp_path: Path) -> None:
    variables = {
        "DATABASE_URL": module_database,
        "POOL_MIN_SIZE": "1",
        "POOL_MAX_SIZE": "1",
        "POOL_ACQUIRE_TIMEOUT": "0.5",
        "BREAKER_FAIL_MAX": "2",
        "LOG_FORMAT": "json",
    }
    async with running(["-m", "app", "serve"], cwd=tmp_path, variables=variables) as service:
        await eventually(lambda: service.answers("/readyz"))
        clients = Clients(service.url, "/v1/accounts")
        async with clients.asking(20):
            await clients.answers(50)
            service.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.2)  # what is tested: longer than anybody's time to wait
            service.process.send_signal(signal.SIGCONT)
            await clients.answers(50)
            await eventually(lambda: 200 in clients.statuses[-5:])
        assert "breaker_moved" not in service.output
