"""A service under steady load that is restarted again and again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.rolling.books import Audit, audit, open_accounts, repeat
from bench.rolling.clients import Crowd, Log
from bench.rolling.cluster import ROOT, Cluster, cluster

if TYPE_CHECKING:
    from lifeguard.development.embedded import EmbeddedServer

CLIENTS = 20
RATE = 200.0
"""Requests a second, all clients together."""
DRAIN_DELAY = 1.0
"""Seconds; five of HAProxy's looks."""
SETTLE = 1.0
"""Seconds of load before the first restart and after the last."""


@dataclass(frozen=True, slots=True)
class Manner:
    """A way to restart. A control is one that must fail: it shows that the others were looked at."""

    name: str
    sign: Signals
    drain_delay: float
    control: bool


DRAIN = Manner("SIGTERM", SIGTERM, DRAIN_DELAY, control=False)
NO_DELAY = Manner("SIGTERM, no delay", SIGTERM, 0.0, control=True)
KILL = Manner("SIGKILL", SIGKILL, DRAIN_DELAY, control=True)


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened in so many rolling restarts, of two replicas each."""

    manner: Manner
    started: float
    """`time.monotonic()`, as in the log."""
    ended: float
    restarts: list[float]
    """When each began."""
    log: Log
    failed_exits: int
    """Replicas that did not end with exit code 0."""
    books: Audit


def hold(manner: Manner, restarts: int, postgres: EmbeddedServer) -> Trial:
    """Run one trial on a database of its own."""
    dsn = postgres.ensure_database(f"rolling_{manner.sign.name.lower()}_{manner.drain_delay:.0f}")
    variables = {
        "DATABASE_URL": dsn,
        "DRAIN_DELAY": str(manner.drain_delay),
        "POOL_MIN_SIZE": "2",
        "POOL_MAX_SIZE": "10",
        "LOG_LEVEL": "warning",
        "LOG_FORMAT": "json",
    }
    with TemporaryDirectory(prefix="bench-") as name, cluster(Path(name), variables) as replicas:
        environment = {**os.environ, "PYTHONPATH": ROOT, **variables}
        migrate = [sys.executable, "-m", "app", "migrate"]
        subprocess.run(migrate, env=environment, cwd=name, check=True, stdout=subprocess.DEVNULL)
        return asyncio.run(_restart(manner, restarts, replicas, dsn))


async def _restart(manner: Manner, restarts: int, replicas: Cluster, dsn: str) -> Trial:
    await replicas.open()
    accounts = await open_accounts(replicas.port)
    crowd = Crowd(replicas.port, clients=CLIENTS, rate=RATE, accounts=accounts, seed=1)
    began = []
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.run())
        await asyncio.sleep(SETTLE)
        for number in range(restarts):
            print(f"{manner.name}: {number + 1} of {restarts}", file=sys.stderr)
            began.append(time.monotonic())
            await replicas.roll(manner.sign)
        await asyncio.sleep(SETTLE)
        crowd.stop()
    ended = time.monotonic()
    failed_before_repeating = len(crowd.log.failures)
    await repeat(replicas.port, crowd.log)
    assert len(crowd.log.failures) == failed_before_repeating
    exits = [code for replica in replicas.replicas for code in replica.exits]
    return Trial(
        manner=manner,
        started=started,
        ended=ended,
        restarts=began,
        log=crowd.log,
        failed_exits=sum(code != 0 for code in exits),
        books=await audit(dsn, crowd.log),
    )
