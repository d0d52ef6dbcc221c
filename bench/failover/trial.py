"""A service under a steady load, whose database restarts, is switched over, or crashes, again and again."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import asyncpg

from bench.failover.clients import Crowd, Seen
from bench.failover.cluster import LONGEST_STEP
from bench.rolling.books import Audit, audit, open_accounts, repeat
from bench.rolling.cluster import ROOT, Replica, free_ports, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.failover.cluster import Cluster, Node

RATE = 100.0
"""Requests a second: half of them reads, half transfers with a key."""
SETTLE = 4.0
"""Seconds of load before the first event and after each."""
LOOK = 0.01
"""Seconds between two looks whether a server takes writes."""
VARIABLES = {"LOG_LEVEL": "warning", "LOG_FORMAT": "json", "POOL_MIN_SIZE": "10"}
"""Of the service."""


@dataclass(frozen=True, slots=True)
class Event:
    """One that happened. Instants are of `time.monotonic()`."""

    began: float
    writable: float
    """A server takes writes, as it says itself."""
    load_average: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened."""

    name: str
    events: list[Event]
    seen: Seen
    books: Audit
    retried: int
    """Transfers that were asked for again, with their key, when all was over."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`happen()` does it, and gives the instant from which on a server takes writes again."""

    name: str
    dsn: str
    times: int
    happen: Callable[[], Awaitable[float]]
    rate: float


async def hold(plan: Plan) -> Trial:
    """Run the service under load."""
    with TemporaryDirectory(prefix="bench-") as directory:
        environment = {**os.environ, **VARIABLES, "PYTHONPATH": ROOT, "DATABASE_URL": plan.dsn}
        migrate = [sys.executable, "-m", "app", "migrate"]
        await asyncio.to_thread(subprocess.run, migrate, env=environment, cwd=directory, check=True)
        (port,) = free_ports(1)
        service = Replica("service", port, environment, Path(directory) / "log")
        service.start()
        try:
            await until(lambda: _is_ready(port), "the service does not become ready")
            return await _under_load(plan, port)
        finally:
            service.kill()
            if copy := os.environ.get("BENCH_LOG"):
                await asyncio.to_thread(shutil.copy, service.log, copy)


def _is_ready(port: int) -> bool:
    asked = HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError):
        asked.request("GET", "/readyz")
        return asked.getresponse().status == HTTPStatus.OK
    return False


async def _under_load(plan: Plan, port: int) -> Trial:
    crowd = Crowd(port, rate=plan.rate, accounts=await open_accounts(port), seed=1)
    events = []
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.run())
        await asyncio.sleep(SETTLE)
        for number in range(plan.times):
            print(f"{plan.name}: {number + 1} of {plan.times}", file=sys.stderr)
            began = time.monotonic()
            writable = await plan.happen()
            events.append(Event(began, writable, os.getloadavg()[0]))
            await asyncio.sleep(SETTLE)
        crowd.stop()
    retried = len(crowd.seen.unacknowledged)
    await repeat(port, crowd.seen)
    return Trial(plan.name, events, crowd.seen, await audit(plan.dsn, crowd.seen), retried)


def switching(cluster: Cluster) -> Callable[[], Awaitable[float]]:
    """A planned switchover."""

    async def happen() -> float:
        leader = await cluster.settled()
        writable = asyncio.create_task(_until_writable(cluster, leader))
        await cluster.switch_over(leader)
        return await writable

    return happen


def crashing(cluster: Cluster) -> Callable[[], Awaitable[float]]:
    """The primary and its Patroni are killed; the one that was is a standby again before the next."""

    async def happen() -> float:
        leader = await cluster.settled()
        writable = asyncio.create_task(_until_writable(cluster, leader))
        await asyncio.to_thread(leader.kill)
        instant = await writable
        cluster.start(leader)
        return instant

    return happen


async def _until_writable(cluster: Cluster, leader: Node) -> float:
    """The instant from which on one of the others takes writes, to 0.01 s. Raises TimeoutError
    if none does."""
    others = [node for node in cluster.nodes if node is not leader]
    looking = [asyncio.create_task(_promotion(cluster.dsn(ports=[node.port]))) for node in others]
    try:
        async with asyncio.timeout(LONGEST_STEP):
            done, _ = await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in looking:
            task.cancel()
    return min(task.result() for task in done)


async def _promotion(dsn: str) -> float:
    """Sessions of a standby outlive its promotion."""
    connection: asyncpg.Connection | None = None
    while True:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = connection or await asyncpg.connect(dsn, timeout=2)
            if not await connection.fetchval("SELECT pg_is_in_recovery()"):
                connection.terminate()
                return time.monotonic()
        if connection is not None and connection.is_closed():
            connection = None
        await asyncio.sleep(LOOK)
