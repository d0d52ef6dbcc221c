"""What borrowers do: each a coroutine with a lease, which may be cancelled at any instant."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from lifeguard.pool import Lease

from packages.lifeguard.tests.stress.world import CHANNEL, OwnFailureError, World

Deed = Callable[[World, Lease], Awaitable[None]]

BIG = "SELECT repeat('x', 1000) FROM generate_series(1, 3000)"
DIRT = (
    "SET my.setting = 'somebody'",
    "SET search_path = pg_catalog",
    "SET ROLE pg_monitor",
    f"LISTEN {CHANNEL}",
    "SELECT pg_try_advisory_lock(7)",
    "CREATE TEMP TABLE mine ()",
    "PREPARE mine AS SELECT 1",
    "BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "SELECT set_config('my.setting', 'somebody', false)",
)


async def read(world: World, lease: Lease) -> None:
    number = world.chance.randint(1, 1000)
    answer = await lease.fetchval("SELECT $1::int", number)
    if answer != number:
        world.blame("read: somebody else's answer", f"{answer!r} instead of {number}")
    row = await lease.fetchrow("SELECT * FROM things WHERE id = $1", 1 + number % 50)
    if row is None or row["id"] != 1 + number % 50:
        world.blame("read: somebody else's row", repr(row))


async def read_a_mood(world: World, lease: Lease) -> None:
    mood = world.chance.choice(["sad", "happy"])
    if (answer := await lease.fetchval("SELECT $1::mood", mood)) != mood:
        world.blame("read_a_mood: somebody else's answer", repr(answer))


async def write(world: World, lease: Lease) -> None:
    async with lease.transaction():
        await lease.execute("UPDATE things SET n = n + 1 WHERE id = $1", world.chance.randint(1, 50))


async def dirty_the_session(world: World, lease: Lease) -> None:
    await lease.execute(world.chance.choice(DIRT))


async def leave_a_transaction_open(world: World, lease: Lease) -> None:
    if world.chance.random() < 0.5:
        await lease.execute("BEGIN; UPDATE things SET n = -1 WHERE id = 1")
    else:
        await lease.transaction().start()
        await lease.fetchval("SELECT count(*) FROM things")


async def time_out(world: World, lease: Lease) -> None:
    with contextlib.suppress(TimeoutError):
        await lease.execute("SELECT pg_sleep(1)", timeout=world.chance.uniform(0.001, 0.03))


async def iterate(world: World, lease: Lease) -> None:
    async with lease.transaction():
        async for _ in lease.cursor("SELECT n FROM generate_series(1, 200) AS n", prefetch=20):
            if world.chance.random() < 0.02:
                return


async def prepare(world: World, lease: Lease) -> None:
    statement = await lease.prepare("SELECT n FROM things WHERE id = $1")
    await statement.fetchval(world.chance.randint(1, 50))


async def listen(world: World, lease: Lease) -> None:
    """Hear what is said while listening, and nothing after the lease has ended."""
    heard = asyncio.Event()
    over = False

    def hear(*_: object) -> None:
        heard.set()
        if over:
            world.blame("listen: called after the lease had ended")

    def end() -> None:
        nonlocal over
        over = True

    world.when_returned[asyncio.current_task()] = end
    await lease.add_listener(CHANNEL, hear)
    await lease.execute(f"NOTIFY {CHANNEL}")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(heard.wait(), 0.2)
    if world.chance.random() < 0.5:
        await lease.remove_listener(CHANNEL, hear)


async def copy_out(world: World, lease: Lease) -> None:
    """To its end, or broken off by a failing sink, or by its timeout."""
    fate = world.chance.choice(["whole", "fails", "times out"])
    pieces = 0

    async def take(_: bytes) -> None:
        nonlocal pieces
        pieces += 1
        if fate == "fails" and pieces > 3:
            raise OwnFailureError
        if fate == "times out":
            await asyncio.sleep(0.005)

    timeout = world.chance.uniform(0.001, 0.05) if fate == "times out" else None
    with contextlib.suppress(TimeoutError):
        await lease.copy_from_query(BIG, output=take, timeout=timeout)


async def copy_in(world: World, lease: Lease) -> None:
    """To its end, or broken off by a failing source, a row that does not fit, or its timeout."""
    fate = world.chance.choice(["whole", "fails", "does not fit", "times out"])
    rows = world.chance.choice([3, 3000])

    async def give() -> AsyncIterator[bytes]:
        for number in range(rows):
            yield f"{number}\tsome words to send\n".encode()
            if number == rows // 2:
                if fate == "fails":
                    raise OwnFailureError
                if fate == "times out":
                    await asyncio.sleep(1)

    timeout = world.chance.uniform(0.001, 0.05) if fate == "times out" else None
    if fate == "does not fit":
        await _copy_what_does_not_fit(lease)
        return
    with contextlib.suppress(TimeoutError):
        await lease.copy_to_table("sink", source=give(), timeout=timeout)


async def _copy_what_does_not_fit(lease: Lease) -> None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # of the driver, as of asyncpg.DataError
        await lease.copy_records_to_table("sink", records=[(1, "fits"), ("does not", None)])


async def change_codecs(_: World, lease: Lease) -> None:
    await lease.set_type_codec("json", encoder=str, decoder=str, schema="pg_catalog")


async def two_at_once(_: World, lease: Lease) -> None:
    """A statement still under way when the lease ends."""
    napping = asyncio.ensure_future(lease.execute("SELECT pg_sleep(0.05)"))
    napping.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.sleep(0)


async def close(_: World, lease: Lease) -> None:
    await lease.close(timeout=2)


COMMON: tuple[Deed, ...] = (read, read, read, read_a_mood, write, write, iterate, prepare)
RARE: tuple[Deed, ...] = (
    dirty_the_session,
    leave_a_transaction_open,
    time_out,
    listen,
    copy_out,
    copy_out,
    copy_in,
    copy_in,
    change_codecs,
    two_at_once,
    close,
)
