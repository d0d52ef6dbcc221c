"""Pools that fit the server, before they find out under load that they do not."""

import asyncio

import asyncpg
import pytest
from lifeguard.database import Database, PoolOversized
from lifeguard.database.sizing import Capacity, read_capacity, size_pool
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, MakeDatabase, settings_for
from packages.lifeguard.tests.sample.settings import Settings

HUNDRED = Capacity(max_connections=103, reserved=3, limit=None)


def settings(**values: object) -> Settings:
    return settings_for("postgresql://nowhere/x", **values)


def test_auto_shares_the_headroom_among_all_instances() -> None:
    sizing = size_pool(settings(pool_max_size="auto", pool_instances=4), HUNDRED)
    assert sizing.max_size == 18
    assert sizing.demand == 72
    assert sizing.warning is None


def test_auto_below_the_minimum_is_refused() -> None:
    with pytest.raises(PoolOversized, match="POOL_MIN_SIZE=5"):
        size_pool(settings(pool_max_size="auto", pool_min_size=5, pool_instances=20), HUNDRED)


def test_up_to_three_quarters_of_the_server_nothing_is_said() -> None:
    assert size_pool(settings(pool_max_size=15, pool_instances=5), HUNDRED).warning is None


def test_above_three_quarters_is_warned_of() -> None:
    warning = size_pool(settings(pool_max_size=19, pool_instances=4), HUNDRED).warning
    assert warning is not None
    assert "POOL_MAX_SIZE=19 x POOL_INSTANCES=4: 76 connections" in warning


def test_all_that_the_server_has_is_still_allowed() -> None:
    assert size_pool(settings(pool_max_size=20, pool_instances=5), HUNDRED).share == 1


def test_more_than_the_server_has_is_refused_in_one_line() -> None:
    with pytest.raises(PoolOversized) as caught:
        size_pool(settings(pool_max_size=101, pool_instances=1), HUNDRED)
    assert str(caught.value) == (
        "POOL_MAX_SIZE=101 x POOL_INSTANCES=1: 101 connections, but the server has 100 sessions"
        " (max_connections=103, 3 of them reserved)"
    )


def test_one_process_of_those_that_count_each_other_has_what_the_headroom_leaves_beside_its_seat() -> None:
    assert size_pool(settings(pool_max_size="auto", pool_instances="auto"), HUNDRED).max_size == 74
    assert size_pool(settings(pool_max_size=500, pool_instances="auto"), HUNDRED).max_size == 74
    assert size_pool(settings(pool_max_size=20, pool_instances="auto"), HUNDRED).max_size == 20
    with pytest.raises(PoolOversized, match="a process needs 2 sessions"):
        size_pool(settings(pool_instances="auto"), Capacity(max_connections=4, reserved=2, limit=None))


async def test_reserved_connections_do_not_count(server_factory: ServerFactory) -> None:
    server = await server_factory(
        max_connections="30", superuser_reserved_connections="4", reserved_connections="6"
    )
    async with server.connect() as connection:
        capacity = await read_capacity(connection)
    assert (capacity.max_connections, capacity.reserved, capacity.available) == (30, 10, 20)


async def test_a_connection_limit_of_the_role_or_the_database_counts(
    postgres: PostgresServer, database_url: str
) -> None:
    async with postgres.connect() as admin:
        await admin.execute("DROP ROLE IF EXISTS limited")
        await admin.execute("CREATE ROLE limited LOGIN CONNECTION LIMIT 7 PASSWORD 'x'")
    name = database_url.rpartition("/")[2]
    connection = await asyncpg.connect(f"postgresql://limited:x@127.0.0.1:{postgres.port}/{name}")
    try:
        assert (await read_capacity(connection)).available == 7
        async with postgres.connect() as admin:
            await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 5")
        assert (await read_capacity(connection)).available == 5
    finally:
        await connection.close()


async def test_auto_grows_to_its_part_of_the_server(
    make_database: MakeDatabase, server_factory: ServerFactory
) -> None:
    server = await server_factory(max_connections="43", superuser_reserved_connections="3")
    database = await make_database(server.dsn(), pool_max_size="auto", pool_instances=2)
    assert database.primary.get_max_size() == 15


async def test_a_start_that_asks_for_too_much_is_refused(database_url: str, postgres: PostgresServer) -> None:
    database = Database(settings_for(database_url, pool_max_size=150, pool_instances=2))
    with pytest.raises(PoolOversized):
        await database.open()
    await database.drain(timeout=1)


async def test_a_server_that_answers_later_is_judged_later(
    server_factory: ServerFactory, make_database: MakeDatabase, log: Log
) -> None:
    server = await server_factory(max_connections="20")
    await server.stop()
    database = await make_database(server.dsn(), pool_max_size=50)
    assert database.oversized is None
    await server.start()
    await eventually(lambda: database.oversized)
    assert [entry["log_level"] for entry in log if entry["event"] == "pool_oversized"] == ["error"]


async def test_a_pool_that_is_closed_before_the_server_answers_ends_the_question(
    make_database: MakeDatabase,
) -> None:
    dead = f"postgresql://postgres@127.0.0.1:{unused_port()}/postgres"
    database = await make_database(dead)
    await database.drain(timeout=1)
    assert database.oversized is None


async def test_most_of_the_server_is_warned_of_at_the_start(make_database: MakeDatabase, log: Log) -> None:
    await make_database(pool_max_size=180)
    warnings = [entry for entry in log if entry["log_level"] == "warning"]
    assert [entry["event"] for entry in warnings] == ["pool_takes_most_of_the_server"]


async def test_a_database_can_be_closed_before_it_was_ever_reached(database_url: str) -> None:
    dead = f"postgresql://postgres@127.0.0.1:{unused_port()}/postgres"
    database = Database(settings_for(dead))
    await database.open()
    async with asyncio.timeout(5):
        await database.close()
