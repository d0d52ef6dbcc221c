"""What is done to the pool while it is used: by its operator, its network and its database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import asyncpg

from packages.lifeguard.tests.stress.world import NAME, World

Trouble = Callable[[World], Awaitable[None]]

DDL = (
    "ALTER TABLE things ADD COLUMN IF NOT EXISTS extra int",
    "ALTER TABLE things DROP COLUMN IF EXISTS extra",
    "ALTER TABLE things ALTER COLUMN n TYPE bigint",
    "ALTER TABLE things ALTER COLUMN n TYPE int",
    "DROP TYPE IF EXISTS mood; CREATE TYPE mood AS ENUM ('sad', 'happy')",
    "TRUNCATE sink",
)


async def kill(world: World) -> None:
    sessions = await world.server.backends(application_name=NAME)
    victims = [session["pid"] for session in sessions if world.chance.random() < 0.3]
    world.ended.update(victims)
    await world.server.kill(*victims)


async def cut_the_line(world: World) -> None:
    """Reset a connection, after it has perhaps been silent for a while."""
    sessions = await world.server.backends(application_name=NAME)
    if not sessions:
        return
    session = world.chance.choice(sessions)
    with contextlib.suppress(LookupError):
        link = world.proxy.link_from(session["client_port"])
        world.ended.add(session["pid"])
        if world.chance.random() < 0.5:
            link.silence()
            await asyncio.sleep(world.chance.uniform(0, 0.3))
        link.reset()


async def refuse_newcomers(world: World) -> None:
    world.proxy.refuse_new = True
    await asyncio.sleep(world.chance.uniform(0, 0.1))
    world.proxy.refuse_new = False


async def slow_down(world: World) -> None:
    world.proxy.latency = world.chance.uniform(0, 0.01)
    world.proxy.slice_size = world.chance.choice([None, 7, 100])
    await asyncio.sleep(world.chance.uniform(0, 0.2))
    world.proxy.latency, world.proxy.slice_size = 0.0, None


async def resize(world: World) -> None:
    most = world.chance.randint(2, 12)
    await world.pool.resize(min_size=world.chance.randint(0, most), max_size=most)


async def expire(world: World) -> None:
    await world.pool.expire_connections()


async def suspend(world: World) -> None:
    world.pool.suspend()
    await asyncio.sleep(world.chance.uniform(0, 0.05))
    world.pool.resume()


async def change_the_schema(world: World) -> None:
    async with world.server.connect(world.database) as admin:
        await admin.execute("SET lock_timeout = 200")
        with contextlib.suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await admin.execute(world.chance.choice(DDL))


TROUBLES: tuple[Trouble, ...] = (
    kill,
    cut_the_line,
    refuse_newcomers,
    slow_down,
    resize,
    resize,
    expire,
    suspend,
    change_the_schema,
    change_the_schema,
)
