"""A network between pool and server that is slow, silent or rude."""

import asyncio

import asyncpg
import pytest
from lifeguard.pool import PoolError
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import assert_balanced, at_rest
from packages.lifeguard.tests.pool.borrowers import link_of
from packages.lifeguard.tests.pool.conftest import MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch

LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


async def test_a_byte_at_a_time_gives_the_same_results(make_pool: MakePool, proxy: Proxy) -> None:
    proxy.slice_size = 1
    pool = await make_pool(proxy.dsn, min_size=2)
    rows = await pool.fetch("SELECT n, repeat('x', n) FROM generate_series(1, 50) AS n")
    assert [(row[0], len(row[1])) for row in rows] == [(n, n) for n in range(1, 51)]
    await pool.execute("SET search_path = pg_catalog")
    assert "public" in await pool.fetchval("SHOW search_path")


async def test_a_distant_server_is_served_by_as_many_connections_as_it_takes(
    make_pool: MakePool, proxy: Proxy
) -> None:
    pool = await make_pool(proxy.dsn, min_size=4, max_size=4, queue_target=0)
    proxy.latency = 0.02
    values = await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(40)))
    assert values == [*range(40)]
    assert pool.stats().opened == 4
    assert pool.stats().closed == {}


async def test_a_round_trip_longer_than_the_patience_with_a_check_costs_no_connection(
    make_pool: MakePool, proxy: Proxy
) -> None:
    pool = await make_pool(proxy.dsn, min_size=2, validate_after=0)
    proxy.latency = 0.15
    assert await pool.fetchval("SELECT 1") == 1
    proxy.latency = 0
    await eventually(lambda: at_rest(pool.stats()))
    assert pool.stats().closed == {}


async def test_a_storm_of_resets_loses_no_lease(make_pool: MakePool, proxy: Proxy) -> None:
    pool = await make_pool(proxy.dsn, min_size=2, max_size=6)
    served = 0
    done, calm_enough = asyncio.Event(), asyncio.Event()

    async def client() -> None:
        nonlocal served
        while not done.is_set():
            try:
                async with pool.acquire() as lease, lease.transaction():
                    await lease.fetchval("SELECT 1")
                    served += 1
                    if served % 20 == 0:
                        calm_enough.set()
            except (PoolError, *LOST):
                await asyncio.sleep(0)

    clients = [asyncio.create_task(client()) for _ in range(20)]
    for _ in range(20):
        await calm_enough.wait()
        calm_enough.clear()
        proxy.reset_links()
    done.set()
    await asyncio.gather(*clients)
    await eventually(lambda: at_rest(pool.stats()) and pool.get_idle_size() >= 2)
    assert_balanced(pool.stats())
    assert await pool.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("way", ["both", "questions", "answers"])
async def test_silence_in_mid_query_ends_with_the_command_timeout(
    make_pool: MakePool, proxy: Proxy, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeguard.pool.cleanup.STEP_BOUND", 0.2)
    pool = await make_pool(proxy.dsn, max_size=1, command_timeout=0.2)
    async with pool.acquire() as lease:
        (await link_of(lease, proxy)).silence(questions=way != "answers", answers=way != "questions")
        async with Stopwatch() as watch:
            with pytest.raises(TimeoutError):
                await lease.fetchval("SELECT 1")
        assert watch.seconds < 0.2 + 0.25
    async with Stopwatch() as watch:
        assert await pool.fetchval("SELECT 1") == 1
    assert watch.seconds < 1


async def test_silence_while_a_session_is_reset_costs_no_more_than_the_bound_of_a_step(
    make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeguard.pool.cleanup.STEP_BOUND", 0.2)
    pool = await make_pool(proxy.dsn, max_size=1)
    async with pool.acquire() as lease:
        await lease.execute("SET search_path = pg_catalog")
        proxy.silence()
    async with Stopwatch() as watch:
        assert await pool.fetchval("SELECT 1") == 1
    assert watch.seconds < 0.2 + 0.5


async def test_silence_everywhere_is_over_when_the_network_is_back(
    make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeguard.pool.tasks.CHECK_BOUND", 0.2)
    pool = await make_pool(
        proxy.dsn, min_size=3, max_size=3, connect_timeout=0.3, validate_after=0, acquire_timeout=0.5
    )
    proxy.hold_new = True
    proxy.silence()
    with pytest.raises(PoolError):
        await pool.acquire()
    await eventually(lambda: pool.stats().open_failures)
    proxy.resume()
    async with Stopwatch() as watch:
        await eventually(lambda: pool.get_idle_size() == 3)
    assert watch.seconds < 3
    assert await pool.fetchval("SELECT 1") == 1
