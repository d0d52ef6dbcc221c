"""How Python's garbage collector is set in a process that serves, and what that does to its memory."""

import asyncio
import gc
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lifeguard.server import collector
from lifeguard.testing.clients import plain_client
from lifeguard.testing.processes import environment, running

OURS = [collector.YOUNG, collector.MIDDLE, collector.OLD]
ASKS = "import gc, json\nthreshold, frozen = gc.get_threshold, gc.get_freeze_count\n"
TELLS = "\nprint(json.dumps([threshold(), frozen() > 10_000]))\n"
MADE = "from packages.lifeguard.tests.sample import main\nmain.app"
SERVED = """
import gc, os
from fastapi import FastAPI
from lifeguard.server import process
from packages.lifeguard.tests.sample.settings import Settings

app = FastAPI()

@app.get("/healthz")
async def healthz() -> list[int | bool]:
    return [*gc.get_threshold(), gc.get_freeze_count() > 10_000]

settings = Settings(port=int(os.environ["PORT"]))
process.run(app, settings, process.listen(settings))
"""
CIRCLES = """
from collections import deque
from lifeguard.server import collector
collector.settle()
class Circle: pass
alive, most = deque(maxlen=5_000), 0
for number in range(600_000):
    one = Circle()
    one.itself = one
    alive.append(one)
    if number % 10_000 == 0:
        most = max(most, len(gc.get_objects()))
print(json.dumps(most))
"""


def told(program: str) -> Any:
    variables = environment(DATABASE_URL="postgresql://nobody@127.0.0.1:1/x")
    done = subprocess.run(
        [sys.executable, "-c", ASKS + program], env=variables, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_is_set_where_a_server_makes_the_app() -> None:
    assert told(MADE + TELLS) == [OURS, True]


async def test_is_set_where_the_engine_serves(tmp_path: Path) -> None:
    async with running(["-c", SERVED], cwd=tmp_path) as service:
        assert (await service.get("/healthz")).json() == [*OURS, True]


def test_what_the_service_has_set_stays() -> None:
    before = gc.get_threshold()
    gc.set_threshold(5_000, 5, 5)
    try:
        collector.settle()
        assert gc.get_threshold() == (5_000, 5, 5)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def test_circles_that_live_for_a_while_are_bounded() -> None:
    """Two objects each: the circle and its dictionary."""
    bound = collector.YOUNG * collector.MIDDLE + 2 * collector.YOUNG + 2 * 5_000 * (collector.OLD + 1)
    assert told(CIRCLES) < bound


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_memory_is_flat_over_requests_of_all_kinds(migrated_database: str, tmp_path: Path) -> None:
    """Each client is a connection of its own, and ends with the last of its requests."""
    patient = {"POOL_QUEUE_TARGET": "0", "POOL_ACQUIRE_TIMEOUT": "60"}
    variables = {"DATABASE_URL": migrated_database, "LOG_LEVEL": "warning", **patient}
    command = ["-m", "packages.lifeguard.tests.sample", "serve"]
    async with running(command, cwd=tmp_path, variables=variables) as service:
        status = Path(f"/proc/{service.process.pid}/statm")

        async def memory_after(rounds: int) -> int:
            for _ in range(rounds):
                async with asyncio.TaskGroup() as clients:
                    for _ in range(16):
                        clients.create_task(asks_for_all_kinds(service.url))
            return int(status.read_text().split()[1]) * resource.getpagesize()

        before = await memory_after(40)
        after = await memory_after(160)
        assert after - before < 16 * 2**20  # a kilobyte for each of the 15,360 requests


async def asks_for_all_kinds(url: str) -> None:
    async with plain_client(url) as client:
        for path, expected in (("", 200), ("/1", 404), ("/x", 422), ("?limit=x", 422)):
            assert (await client.get(f"/items{path}")).status_code == expected
        assert (await client.post("/items", json={"name": "x"})).status_code == 201
        assert (await client.post("/items", content=b"x" * 70_000)).status_code == 413
