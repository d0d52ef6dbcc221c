"""The end of a serving process that has requests in flight."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from lifeguard.server import process
from lifeguard.testing.processes import ServiceProcess, running
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.sample.settings import Settings
from packages.lifeguard.tests.stopwatch import Stopwatch

SERVICE = """
import asyncio, os
from fastapi import FastAPI
from lifeguard.server import process
from packages.lifeguard.tests.sample.settings import Settings

app = FastAPI()
waiting = 0

@app.get("/healthz")
async def healthz() -> int:
    return waiting

@app.get("/wait/{seconds}")
async def wait(seconds: float) -> str:
    global waiting
    waiting += 1
    await asyncio.sleep(seconds)
    return "done"

settings = Settings(port=int(os.environ["PORT"]), drain_timeout=0.5)
try:
    process.run(
        app, settings, process.listen(settings),
        on_listening=lambda: print("listening", flush=True),
        on_second_signal=lambda: print("impatient", flush=True),
    )
except KeyboardInterrupt:
    print("ended", flush=True)
"""


@asynccontextmanager
async def with_a_request_of(
    seconds: float, directory: Path
) -> AsyncIterator[tuple[ServiceProcess, asyncio.Task[httpx.Response]]]:
    """A service in the middle of a request that takes so long."""
    async with running(["-c", SERVICE], cwd=directory) as service:
        request = asyncio.create_task(service.get(f"/wait/{seconds}"))

        async def has_arrived() -> bool:
            return (await service.get("/healthz")).text == "1"

        await eventually(has_arrived)
        yield service, request
        await asyncio.wait([request])


async def test_finishes_the_request(tmp_path: Path) -> None:
    async with with_a_request_of(0.5, tmp_path) as (service, request):
        assert await service.end(signal.SIGINT) == 0
        assert (await request).text == '"done"'
        assert service.output == "listening\nended\n"


async def test_cuts_off_a_request_that_takes_too_long(tmp_path: Path) -> None:
    async with with_a_request_of(60, tmp_path) as (service, request):
        async with Stopwatch() as watch:
            await service.end(signal.SIGINT)
        assert watch.seconds < 5
        assert (await request).status_code == 500


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
async def test_second_signal_ends_it_at_once(tmp_path: Path, sign: signal.Signals) -> None:
    async with with_a_request_of(60, tmp_path) as (service, _):
        service.process.send_signal(sign)
        await eventually(lambda: service.refuses("/healthz"))
        assert await service.end(sign) == 128 + sign
        assert service.output.endswith("impatient\n")


def test_shows_a_url_for_an_ipv6_address() -> None:
    with process.listen(Settings(host="::1", port=0)) as listener:
        assert process.url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
