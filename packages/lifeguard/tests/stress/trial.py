"""One trial: the pool, its borrowers and its troubles for some seconds, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lifeguard.pool import Lease, Pool, PoolError
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced, at_rest
from packages.lifeguard.tests.stress.deeds import COMMON, RARE, read, read_a_mood
from packages.lifeguard.tests.stress.troubles import TROUBLES
from packages.lifeguard.tests.stress.world import BOUND, LEFT_BEHIND, NAME, SCHEMA, SETTINGS, World

BORROWERS = 24
MIN_SIZE, MAX_SIZE = 2, 8


async def trial(server: PostgresServer, *, seed: int, seconds: float) -> World:
    """Stress a pool on a new database of this server; what was wrong is in the answer's `wrong`."""
    loop = asyncio.get_running_loop()
    before = asyncio.all_tasks()
    chance = random.Random(seed)
    database = await server.create_database()
    async with server.connect(database) as admin:
        await admin.execute(SCHEMA)
    async with Proxy(server.dsn(database)).serve() as proxy:
        pool = Pool(
            proxy.dsn,
            name=NAME,
            min_size=MIN_SIZE,
            max_size=MAX_SIZE,
            acquire_timeout=2,
            queue_target=chance.choice([0.0, 0.0, 0.0, 0.25]),
            connect_timeout=2,
            validate_after=0.05,
            idle_timeout=0.3,
            max_lifetime=3,
            health_check_interval=0.2,
            leak_threshold=0,
            command_timeout=5,
            on_event=lambda _: None,
            server_settings={"application_name": NAME, **SETTINGS},
        )
        world = World(pool, server, proxy, database, chance)
        with _ears_open(loop, world):
            await pool.open()
            await pool.wait_ready(BOUND)
            await _stress(world, loop.time() + seconds)
            await _come_to_rest(world)
            await _end(world, before)
    await server.drop_database(database)
    return world


@contextmanager
def _ears_open(loop: asyncio.AbstractEventLoop, world: World) -> Iterator[None]:
    """Blame whatever is told to nobody: the loop's exception handler, warnings, destructors that fail."""

    def handler(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        kind = f"told to the loop: {context['message']} ({type(error).__name__})"
        world.blame(kind, error or repr(context))

    unraisable, sys.unraisablehook = (
        sys.unraisablehook,
        lambda args: world.blame(f"unraisable: {args.exc_type.__name__}", args.exc_value or ""),
    )
    loop.set_exception_handler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
            gc.collect()
        for warning in caught:
            world.blame(f"warning: {warning.message}", f"{warning.filename}:{warning.lineno}")
    finally:
        loop.set_exception_handler(None)
        sys.unraisablehook = unraisable


async def _stress(world: World, until: float) -> None:
    loop = asyncio.get_running_loop()
    borrowers: set[asyncio.Task[None]] = set()
    troubles = asyncio.create_task(_make_trouble(world, until))
    while loop.time() < until:
        while len(borrowers) < BORROWERS:
            task = asyncio.create_task(_borrow(world))
            borrowers.add(task)
            task.add_done_callback(borrowers.discard)
        if world.chance.random() < 0.1:
            world.chance.choice(list(borrowers)).cancel()
        await asyncio.sleep(world.chance.uniform(0, 0.01))
    for task in [troubles, *borrowers]:
        try:
            await asyncio.wait_for(asyncio.wait([task]), BOUND)
        except TimeoutError:
            frames = [f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in task.get_stack()]
            world.blame(
                "a borrower or a trouble that does not end", f"{task!r} {frames} {world.pool.stats()}"
            )
            task.cancel()


async def _make_trouble(world: World, until: float) -> None:
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        trouble = world.chance.choice(TROUBLES)
        try:
            await asyncio.wait_for(trouble(world), BOUND)
            world.done[trouble.__name__] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            world.blame(f"{trouble.__name__}: {type(error).__name__}", error)
        await asyncio.sleep(world.chance.uniform(0, 0.3))


async def _borrow(world: World) -> None:
    """Borrow, look whether the session is as new, do something, give it back."""
    deed = world.chance.choice(RARE if world.chance.random() < 0.4 else COMMON)
    name = deed.__name__
    lease: Lease | None = None
    pid: int | None = None
    try:
        lease = await world.pool.acquire(timeout=world.chance.choice([None, None, None, None, 0.001, 0.05]))
        pid = lease.get_server_pid()
        name = "look"
        await _look(world, lease)
        name = deed.__name__
        await deed(world, lease)
        world.done[name] += 1
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not task.cancelling():
            world.blame(f"{name}: a cancellation that nobody asked for")
        raise
    except TimeoutError as error:
        if not isinstance(error, PoolError):
            world.blame(f"{name}: TimeoutError", error)
        world.done[type(error).__name__] += 1
    except Exception as error:  # noqa: BLE001 - it is judged
        world.judge(name, error, pid)
        if lease is None:
            await asyncio.sleep(0.02)  # turned away: another time
    finally:
        ended = world.when_returned.pop(asyncio.current_task(), None)
        if lease is not None:
            if world.chance.random() < 0.02:
                del lease  # forgotten: the pool takes it back by itself
            else:
                await world.pool.release(lease)
                if ended is not None:  # what was heard before is told in the loop's next turn
                    asyncio.get_running_loop().call_soon(ended)


async def _look(world: World, lease: Lease) -> None:
    """The session is as new."""
    if lease.is_in_transaction():
        world.blame("a session in another borrower's transaction")
    if left := await lease.fetchval(LEFT_BEHIND):
        world.blame("a session with another borrower's state", str(left))


async def _come_to_rest(world: World) -> None:
    pool = world.pool
    world.proxy.resume()
    pool.resume()
    await pool.resize(min_size=MIN_SIZE, max_size=MAX_SIZE)
    gc.collect()  # leases that were forgotten in a cycle

    async def agreed() -> bool:
        stats = pool.stats()
        assert_balanced(stats)
        assert at_rest(stats), stats
        assert stats.min_size <= stats.size <= stats.max_size, stats
        sessions = await world.server.backends(application_name=NAME)
        assert len(sessions) == stats.size, [dict(session) for session in sessions]
        assert {session["state"] for session in sessions} <= {"idle"}
        return True

    try:
        await eventually(agreed, BOUND, interval=0.05)
    except AssertionError as error:
        world.blame("does not come to rest", error)

    async def use() -> None:
        async with pool.acquire(timeout=BOUND) as lease:
            await read(world, lease)
            await read_a_mood(world, lease)

    for result in await asyncio.gather(*(use() for _ in range(2 * MAX_SIZE)), return_exceptions=True):
        if isinstance(result, BaseException):
            world.blame(f"afterwards: {type(result).__name__}", result)


async def _end(world: World, before: set[asyncio.Task[Any]]) -> None:
    report = await world.pool.drain(BOUND)
    if report.cut_off or report.refused:
        world.blame("a drain that had to cut off", repr(report))
    gc.collect()

    async def nobody_left() -> bool:
        ours = {task for task in asyncio.all_tasks() - before if NAME in task.get_name()}
        assert not ours, ours
        sessions = await world.server.backends(application_name=NAME)
        assert not sessions, sessions
        return True

    try:
        await eventually(nobody_left, BOUND)
    except AssertionError as error:
        world.blame("left after the drain", error)
