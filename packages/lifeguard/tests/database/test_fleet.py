"""Processes of one service that find each other at a real server, and share what it has."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import asyncpg
import pytest
from lifeguard.database import Database, PoolOversized
from lifeguard.database import fleet as decisions
from lifeguard.database.fleet_watch import Fleet, FleetReport
from lifeguard.pool import PoolEvent, PoolUnavailable
from lifeguard.testing.pgbouncer import NoPgBouncer, pgbouncer
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, settings_for

# Sessions for ordinary users, of which the counting session of the tests is one.
ROOM = 40
WITH_COUNTER = ROOM - 1
BUDGET = WITH_COUNTER - 2
"""POOL_HEADROOM=1, less the door."""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the real times, twenty times as fast."""
    monkeypatch.setattr(Fleet, "pace", 20.0)
    monkeypatch.setattr(decisions, "SETTLE", 0.25)


class Counter:
    """Counts the sessions that are no superuser's whenever a pool has opened one."""

    def __init__(self, admin: asyncpg.Connection) -> None:
        self._admin = admin
        self._turn = asyncio.Lock()
        self._counts: list[asyncio.Task[int]] = []

    def hear(self, event: PoolEvent) -> None:
        if event.name == "connection_opened" and not self._admin.is_closed():
            self._counts.append(asyncio.create_task(self.count()))

    async def count(self) -> int:
        async with self._turn:
            number: int = await self._admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return number

    async def most(self) -> int:
        return max(await asyncio.gather(*self._counts))

    async def end(self) -> None:
        """What is still asked is answered, or not any more."""
        await asyncio.gather(*self._counts, return_exceptions=True)


class World:
    """A small server, and the processes of a service that are busy on it."""

    def __init__(self, server: PostgresServer, counter: Counter, stack: AsyncExitStack) -> None:
        self.server = server
        self.counter = counter
        self._stack = stack
        self.served = 0
        self._working: list[asyncio.Task[None]] = []

    async def start(self, **values: object) -> Database:
        settings = settings_for(self.server.dsn(), **{**AUTO, **values})
        database = Database(settings, on_event=self.counter.hear)
        self._stack.push_async_callback(database.drain, 20)
        await database.open()
        return database

    def work(self, database: Database) -> None:
        """More requests than it has connections, until `rest()`."""
        self._working += [asyncio.create_task(self._ask(database)) for _ in range(8)]

    async def _ask(self, database: Database) -> None:
        while not database.primary.is_closing():
            await database.fetchval("SELECT pg_sleep(0.002)")
            self.served += 1

    async def rest(self) -> None:
        """Raises what any request has met."""
        for task in self._working:
            task.cancel()
        ended = await asyncio.gather(*self._working, return_exceptions=True)
        self._working.clear()
        assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []

    @property
    def refusals(self) -> list[str]:
        """What the server has logged of those for whom it had no session."""
        text = (self.server.directory / "server.log").read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if "53300" in line or "too many clients" in line
                or "connection slots" in line]  # fmt: skip


AUTO: dict[str, object] = {
    "pool_instances": "auto", "pool_max_size": "auto", "pool_headroom": 1, "pool_min_size": 2,
    "pool_keepalive": 1,
}  # fmt: skip


@pytest.fixture
async def world(server_factory: ServerFactory) -> AsyncIterator[World]:
    server = await server_factory(max_connections=str(ROOM + 3), superuser_reserved_connections="3")
    async with server.connect() as admin:
        counter = Counter(admin)
        async with AsyncExitStack() as stack:
            yield World(server, counter, stack)
        await counter.end()


def report(database: Database) -> FleetReport:
    (fleet,) = [guard.fleet for guard in database.guards if guard.fleet]
    return fleet.report


def share(instances: int) -> int:
    return BUDGET // instances - 1


def has_its_share(*databases: Database) -> Callable[[], bool]:
    """Whether each pool may have it, and all know of each other."""
    number = len(databases)
    return lambda: all(
        (report(one).instances, report(one).claim, one.primary.get_max_size())
        == (number, share(number), share(number))
        for one in databases
    )


@asynccontextmanager
async def another_process(server: PostgresServer) -> AsyncIterator[Process]:
    """A real one, with two connections in a statement; it gets SIGKILL at the end of the block at last."""
    program = f"""
import asyncio
from lifeguard.database import Database
from lifeguard.database.fleet_watch import Fleet
from packages.lifeguard.tests.database.conftest import settings_for
Fleet.pace = 20.0
async def main():
    database = Database(settings_for({server.dsn()!r}, **{AUTO!r}))
    await database.open()
    async def work():
        while True:
            await database.fetchval("SELECT pg_sleep(1)")  # which the server ends before it notices
    working = [asyncio.create_task(work()) for _ in range(2)]
    while len(database.primary.leases()) < 2:
        await asyncio.sleep(0.01)
    print("busy", flush=True)
    await asyncio.gather(*working)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=PIPE)
    try:
        assert process.stdout is not None
        while (line := await process.stdout.readline()) != b"busy\n":
            assert line, "it has ended"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_pools_follow_the_processes_that_come_and_go(world: World) -> None:
    first = await world.start()
    world.work(first)
    await eventually(has_its_share(first))
    others = await asyncio.gather(*(world.start() for _ in range(3)))  # at the same time
    for other in others:
        world.work(other)
    await eventually(has_its_share(first, *others))
    await eventually(lambda: world.served > 500)
    await world.rest()
    for leaving in others[:2]:
        await leaving.drain(timeout=20)
    await eventually(has_its_share(first, others[2]))
    assert await world.counter.most() <= ROOM
    assert world.refusals == []


@pytest.mark.slow
async def test_what_a_killed_process_had_is_shared_out_once_the_server_has_ended_its_sessions(
    world: World,
) -> None:
    survivor = await world.start()
    world.work(survivor)
    async with another_process(world.server) as process:
        await eventually(lambda: report(survivor).instances == 2)
        process.kill()
        await eventually(has_its_share(survivor))
    await world.rest()
    assert report(survivor).orphans == 0
    assert await world.counter.most() <= ROOM
    assert world.refusals == []


async def test_a_process_without_a_place_opens_nothing_and_says_so(world: World, log: Log) -> None:
    databases = [await world.start(pool_headroom=0.1) for _ in range(2)]  # 4 sessions: two places
    late = await world.start(pool_headroom=0.1)
    await eventually(lambda: report(late).standing == "full")
    with pytest.raises(PoolUnavailable, match="all that it can share out"):
        await late.fetchval("SELECT 1")
    assert late.primary.get_size() == 0
    assert [one["places"] for one in log if one["event"] == "pool_has_no_place"] == [2]
    await databases[0].drain(timeout=20)
    await eventually(lambda: report(late).claim)
    assert await late.fetchval("SELECT 1") == 1


async def test_a_server_that_restarts_finds_all_within_their_claims(world: World) -> None:
    databases = [await world.start() for _ in range(3)]
    await eventually(has_its_share(*databases))
    await world.counter.end()
    await world.server.restart("immediate")
    for database in databases:
        await eventually(partial(is_back, database))
    await eventually(has_its_share_of_all(*databases))
    assert world.refusals == []


def is_back(database: Database) -> bool:
    return database.primary.get_size() >= 2


def has_its_share_of_all(*databases: Database) -> Callable[[], bool]:
    """The same without the counter's session, which the restart has ended."""
    wanted = (ROOM - 2) // len(databases) - 1
    return lambda: all(
        (report(one).instances, report(one).claim) == (len(databases), wanted) for one in databases
    )


async def test_a_pool_that_keeps_no_connections_says_nothing_until_somebody_needs_one(world: World) -> None:
    idle = await world.start(pool_min_size=0, pool_idle_timeout=0.2)
    assert await sessions_of(world.server) == []
    async with idle.connection():
        await eventually(lambda: report(idle).claim == share(1))
    await eventually(lambda: idle.primary.get_size() == 0)

    async def has_left() -> bool:
        return report(idle).standing == "apart" and await sessions_of(world.server) == []

    await eventually(has_left)
    assert await idle.fetchval("SELECT 1") == 1


async def sessions_of(server: PostgresServer) -> list[str]:
    return [row["application_name"] for row in await server.backends()]


async def test_the_server_shows_which_process_has_a_session(world: World) -> None:
    database = await world.start()
    name = await database.fetchval("SHOW application_name")
    service, mark, process = name.partition("#")
    assert (service, mark, len(process)) == ("ledger", "#", 6)
    seats = [one for one in await sessions_of(world.server) if one.startswith(f"{name} seat ")]
    assert len(seats) == 1


async def test_behind_a_pooler_nobody_can_be_counted(world: World) -> None:
    try:
        async with pgbouncer(world.server.dsn()) as front:
            database = Database(settings_for(front.url(world.server.dsn()), **AUTO))
            with pytest.raises(PoolOversized, match="behind a pooler"):
                await database.open()
            await database.drain(timeout=20)
    except NoPgBouncer as missing:
        pytest.skip(str(missing))
