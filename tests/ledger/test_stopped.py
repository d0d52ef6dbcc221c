"""A process that was stopped does not take the database for gone."""

import asyncio
import signal
from pathlib import Path

import pytest
from lifeguard.testing.clients import Clients
from lifeguard.testing.processes import running
from lifeguard.testing.waiting import eventually


@pytest.mark.parametrize("seconds", [1.2, pytest.param(6, marks=pytest.mark.slow)])
async def test_a_process_that_was_stopped_opens_no_breaker(
    service_url: str, tmp_path: Path, seconds: float
) -> None:
    variables = {
        "DATABASE_URL": service_url,
        "POOL_MIN_SIZE": "1",
        "POOL_MAX_SIZE": "1",
        "POOL_ACQUIRE_TIMEOUT": "0.5",
        "POOL_CONNECT_TIMEOUT": "0.5",
        "BREAKER_FAIL_MAX": "1",
        "LOG_FORMAT": "json",
    }
    async with running(["-m", "app", "serve"], cwd=tmp_path, variables=variables) as service:
        await eventually(lambda: service.answers("/readyz"))
        clients = Clients(service.url, "/v1/accounts")
        async with clients.asking(20):
            await clients.answers(50)
            service.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)  # what is tested: longer than anybody's time to wait
            service.process.send_signal(signal.SIGCONT)
            await clients.answers(50)
            await eventually(lambda: 200 in clients.statuses[-5:])
        for event in ("breaker_moved", "lane_breaker_opened"):
            assert event not in service.output
