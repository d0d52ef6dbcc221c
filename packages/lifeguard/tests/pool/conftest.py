"""`make_pool(...)`: pools on the real server, whose numbers must add up when the test is over."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import count

import asyncpg
import pytest
from lifeguard.pool import Pool, PoolEvent
from lifeguard.testing.servers import ADMIN, PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced, nothing_left

MakePool = Callable[..., Awaitable[Pool]]
_pool_numbers = count(1)
# On a busy machine any line of a test may take seconds: what is about one of these times names it.
PATIENT: dict[str, object] = {"queue_target": 0, "acquire_timeout": 60, "validate_after": 60}


class Events(list[PoolEvent]):
    """What the pools of a test have reported."""

    def named(self, name: str) -> list[PoolEvent]:
        return [event for event in self if event.name == name]


@pytest.fixture
def events() -> Events:
    return Events()


class Watcher:
    """Looks at the server's sessions after every test, by a session of its own that it keeps."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._connection: asyncpg.Connection | None = None

    async def sees_nothing_of(self, pool: Pool) -> bool:
        """Whether neither the pool nor the server knows of a connection; for `eventually`."""
        assert_balanced(pool.stats())
        if not nothing_left(pool.stats()):
            return False
        if self._connection is None or self._connection.is_closed():
            settings = {"application_name": ADMIN}
            self._connection = await asyncpg.connect(self._server.dsn(), server_settings=settings)
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
        return bool(await self._connection.fetchval(query, pool.name) == 0)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close(timeout=5)


@pytest.fixture(scope="session")
async def watcher(postgres: PostgresServer) -> AsyncIterator[Watcher]:
    watcher = Watcher(postgres)
    yield watcher
    await watcher.close()


@pytest.fixture
async def make_pool(
    postgres: PostgresServer, events: Events, watcher: Watcher, database_first: None
) -> AsyncIterator[MakePool]:
    """`await make_pool(max_size=4)` opens a pool and waits for its minimum.

    Each has a name of its own, which is its sessions' `application_name` as well, and is `PATIENT` unless
    the test says otherwise. `ready=False` does not wait. At the end of the test all are drained, and nothing
    may be left of them.
    """
    pools: list[Pool] = []

    async def make(dsn: str = postgres.dsn(), *, ready: bool = True, **options: object) -> Pool:
        name = f"pool-{next(_pool_numbers)}"
        settings = options.pop("server_settings", {})
        assert isinstance(settings, dict)
        usual = {"min_size": 1, "max_size": 2, "name": name, "on_event": events.append}
        options = {**PATIENT, **usual, **options}
        pool = Pool(dsn, server_settings={"application_name": name, **settings}, **options)  # type: ignore[arg-type]  # whatever a test wants
        pools.append(pool)
        await pool.open()
        if ready:
            await eventually(lambda: pool.get_idle_size() >= pool.get_min_size())
        return pool

    yield make
    # Long enough for a busy machine to end what was cancelled; what is left in use is to be returned before.
    await asyncio.gather(*(pool.drain(timeout=20) for pool in pools))
    for pool in pools:
        await eventually(partial(watcher.sees_nothing_of, pool))
