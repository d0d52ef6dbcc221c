"""One contestant in one scene: start the service, let the clients loose, lock the table if the scene does."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from bench.lanes.scenes import LOCK, phases
from bench.lanes.services import TABLE
from bench.overload.generator import Answers, Plan
from bench.overload.trial import Contestant, breaker_transitions, generate, serving

if TYPE_CHECKING:
    from lifeguard.development.embedded import EmbeddedServer

    from bench.lanes.scenes import Scene, Seconds

OURS = Contestant("Lifeguard", "lanes.services:on_lifeguard", http="lifeguard.server.protocol:Protocol")
CONTESTANTS = (
    OURS,
    Contestant("asyncpg.Pool", "lanes.services:on_asyncpg"),
    Contestant("psycopg_pool", "lanes.services:on_psycopg"),
    Contestant("SQLAlchemy", "lanes.services:on_sqlalchemy"),
)
_START = 1.0
"""Seconds that the clients' process has to start, before the table is locked."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened. `before` and `during` are from and to in seconds of the plan."""

    contestant: Contestant
    scene: Scene
    answers: Answers
    before: tuple[float, float]
    during: tuple[float, float]
    transitions: int | None
    """Of the database's breaker; None for a peer, which has none."""


def prepare(postgres: EmbeddedServer) -> None:
    """Make the table, and give everyone the lock timeout that is our default."""

    async def make() -> None:
        connection = await asyncpg.connect(postgres.dsn(unix=True))
        await connection.execute(TABLE)
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"ALTER DATABASE {database} SET lock_timeout = '3s'")
        await connection.close()

    asyncio.run(make())


def hold(contestant: Contestant, scene: Scene, seconds: Seconds, postgres: EmbeddedServer) -> Trial:
    """Run one trial with a fresh service."""
    settled, measured = seconds.settle, seconds.settle + seconds.before
    with (
        serving(contestant, postgres.dsn(unix=True)) as (process, port),
        ThreadPoolExecutor(1) as clients,
    ):
        plan = Plan(
            port=port,
            seed=1,  # the same arrivals for every contestant
            phases=phases(scene, seconds),
            deadline=scene.patience,
            service=process.pid,
            postmaster=postgres.pid or 0,
            requests=[kind.request for kind in scene.kinds],
        )
        playing = clients.submit(generate, plan)
        during = measured + seconds.settle, measured + seconds.settle + seconds.during
        locked = None
        if scene.locks:
            time.sleep(_START + measured)
            locked = asyncio.run(_lock(postgres))
        answers = playing.result()
        if locked:
            during = locked[0] - answers.began, locked[1] - answers.began
        transitions = breaker_transitions(port) if contestant is OURS else None
    return Trial(contestant, scene, answers, (settled, measured), during, transitions)


async def _lock(postgres: EmbeddedServer) -> tuple[float, float]:
    """Lock the table; when that was asked for and when it ended, on the monotonic clock."""
    connection = await asyncpg.connect(postgres.dsn(unix=True))
    asked = time.monotonic()
    async with connection.transaction():
        await connection.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(LOCK)
        ended = time.monotonic()
    await connection.close()
    return asked, ended
