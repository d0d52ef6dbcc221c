"""A standby is read while it is not too far behind, and comes back by itself."""

import asyncio
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path
from time import sleep
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.database import Database
from lifeguard.database.aside import PATIENCE, Aside
from lifeguard.database.replica import Replica
from lifeguard.database.wal import Lag, Places
from lifeguard.pool import Pool
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.standby import Replication, replication
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, MakeDatabase

LIMIT = 0.5


class TestPlaces:
    def test_nothing_is_known_before_the_primary_was_heard(self) -> None:
        assert Places().behind(5, 0.1) is None

    def test_an_idle_primary_leaves_nobody_behind(self) -> None:
        places = Places()
        for second in range(100):
            places.note(second, 70)
        assert places.behind(70, 99.0) == Lag(0.0, 0)
        assert places.behind(80, None) == Lag(0.0, 0)  # it has more than the primary had when it was asked

    def test_who_is_behind_is_so_since_the_primary_was_there(self) -> None:
        places = Places()
        for second in range(100):
            places.note(second, 70)
        places.note(101, 90)
        places.note(102, 100)
        assert places.behind(70, None) == Lag(3.0, 30)
        assert places.behind(80, None) == Lag(2.0, 20)

    def test_the_lag_stands_still_while_the_primary_is_not_heard(self) -> None:
        """Nobody writes then, as far as anybody knows: the standby has the newest there is."""
        places = Places()
        places.note(1, 10)
        places.note(2, 20)
        assert places.behind(15, 1000.0) == Lag(0.5, 5)

    def test_what_is_older_than_all_that_is_known_is_as_old_as_its_last_transaction(self) -> None:
        places = Places()
        places.note(10, 100)
        assert places.behind(50, 7.0) == Lag(7.0, 50)
        assert places.behind(50, None) == Lag(inf, 50)

    def test_a_failover_that_lost_something_begins_anew(self) -> None:
        places = Places()
        places.note(1, 100)
        places.note(2, 90)
        assert places.behind(95, None) == Lag(0.0, 0)
        assert places.behind(80, None) == Lag(inf, 10)

    @given(st.lists(st.tuples(st.floats(0.01, 9), st.integers(0, 9)), min_size=1), st.integers(0, 99))
    def test_whoever_has_more_is_never_further_behind(
        self, steps: list[tuple[float, int]], place: int
    ) -> None:
        places, time, written = Places(), 0.0, 0
        for seconds, size in steps:
            time, written = time + seconds, written + size
            places.note(time, written)
        less, more = places.behind(place, None), places.behind(place + 1, None)
        assert less is not None
        assert more is not None
        assert less.seconds >= more.seconds >= 0
        assert less.size >= more.size >= 0


@pytest.fixture
async def pair(cluster: Path) -> AsyncIterator[Replication]:
    async with replication(cluster) as pair:
        yield pair


async def write(server: PostgresServer) -> None:
    async with server.connect() as admin:
        await admin.execute("SELECT pg_logical_emit_message(false, 'test', 'written', true)")


def guard_of(database: Database) -> Replica:
    return cast("Replica", database.guards[1])


async def port_of_reads(database: Database) -> int:
    async with database.read() as connection:
        return int(await connection.fetchval("SELECT current_setting('port')::int"))


async def reading(make_database: MakeDatabase, pair: Replication, **values: object) -> Database:
    """The layer, once it reads from the standby."""
    database = await make_database(
        pair.primary.dsn(), database_replica_url=pair.standby.dsn(), replica_max_lag=LIMIT, **values
    )
    await eventually(lambda: guard_of(database).serves)
    assert await port_of_reads(database) == pair.standby.port
    return database


async def left(database: Database, pair: Replication) -> None:
    async def is_left() -> bool:
        await write(pair.primary)
        return not guard_of(database).serves

    await eventually(is_left)
    assert await port_of_reads(database) == pair.primary.port


async def back(database: Database, pair: Replication) -> None:
    await eventually(lambda: guard_of(database).serves)
    assert await port_of_reads(database) == pair.standby.port


def told(log: Log) -> list[tuple[str, str | None]]:
    return [(entry["event"], entry.get("reason")) for entry in log if entry["event"].startswith("replica_")]


@pytest.mark.slow
async def test_a_standby_that_has_stopped_replicating_is_left_and_comes_back(
    make_database: MakeDatabase, pair: Replication, log: Log
) -> None:
    database = await reading(make_database, pair)
    lag = guard_of(database).lag
    async with pair.standby.connect() as standby:
        await standby.execute("SELECT pg_wal_replay_pause()")
        await left(database, pair)
        assert lag.lag is not None
        assert lag.lag.seconds > LIMIT
        assert lag.lag.size > 0
        await standby.execute("SELECT pg_wal_replay_resume()")
    await back(database, pair)
    pair.stream.silence()  # it believes to be connected
    await left(database, pair)
    pair.stream.resume()
    await back(database, pair)
    pair.stream.refuse_new = True
    pair.stream.reset_links()
    await left(database, pair)
    pair.stream.resume()
    await back(database, pair)
    assert told(log) == [
        ("replica_out_of_service", "it is behind: replay is paused"),
        ("replica_serves_again", None),
        ("replica_out_of_service", "it is behind"),
        ("replica_serves_again", None),
        ("replica_out_of_service", "it is behind: it receives nothing"),
        ("replica_serves_again", None),
    ]


@pytest.mark.slow
async def test_a_frozen_replica_is_left_with_whoever_waits_for_it_and_comes_back(
    make_database: MakeDatabase, pair: Replication, log: Log
) -> None:
    async with Proxy(pair.standby.dsn()).serve() as road:
        database = await make_database(
            pair.primary.dsn(), database_replica_url=road.dsn, pool_min_size=1, pool_max_size=1
        )
        await eventually(lambda: guard_of(database).serves)
        async with database.read():
            waiting = asyncio.create_task(port_of_reads(database))
            await eventually(lambda: guard_of(database).pool.stats().waiting)
            road.hold_new = True
            road.silence()
            assert await waiting == pair.primary.port
            assert await port_of_reads(database) == pair.primary.port
            road.resume()
        await back(database, pair)
    assert told(log) == [
        ("replica_out_of_service", "it does not answer"),
        ("replica_serves_again", None),
    ]


async def test_a_question_ends_without_an_answer_also_where_this_process_was_held_up_once(
    database_url: str,
) -> None:
    async with Proxy(database_url).serve() as road, Pool(road.dsn, min_size=1, max_size=1) as pool:
        session = Aside(pool, "aside", ["SELECT 1"])
        await session.ask()
        road.silence()
        asking = asyncio.create_task(session.ask())
        asyncio.get_running_loop().call_later(PATIENCE / 2, sleep, PATIENCE)
        assert asking in (await asyncio.wait({asking}, timeout=60))[0]
        assert isinstance(asking.exception(), TimeoutError)
        session.close()
        road.resume()


@pytest.mark.slow
async def test_a_standby_is_read_while_its_primary_is_away(
    make_database: MakeDatabase, pair: Replication
) -> None:
    database = await reading(make_database, pair)
    await pair.primary.stop("immediate")
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1

    guard_of(database).lag._on_look = count
    await eventually(lambda: looks >= 4)
    assert await port_of_reads(database) == pair.standby.port


@pytest.mark.slow
async def test_an_old_standby_is_not_even_read_at_the_start(
    make_database: MakeDatabase, pair: Replication
) -> None:
    async with pair.standby.connect() as standby:
        await standby.execute("SELECT pg_wal_replay_pause()")
    await write(pair.primary)
    database = await make_database(pair.primary.dsn(), database_replica_url=pair.standby.dsn())
    lag = guard_of(database).lag
    ports = set()

    async def judged() -> bool:
        ports.add(await port_of_reads(database))
        return lag.standing == "behind"

    await eventually(judged)
    assert ports == {pair.primary.port}


@pytest.mark.slow
async def test_any_role_may_ask_and_what_it_is_not_told_cannot_be_measured(
    make_database: MakeDatabase, pair: Replication
) -> None:
    async with pair.primary.connect() as admin:
        await admin.execute(f"CREATE ROLE plain LOGIN PASSWORD '{pair.primary.password}'")
        await pair.caught_up()
        urls = [server.dsn(user="plain") for server in (pair.primary, pair.standby)]
        database = await make_database(urls[0], database_replica_url=urls[1])
        await eventually(lambda: guard_of(database).lag.standing == "current")
        await admin.execute("REVOKE EXECUTE ON FUNCTION pg_current_wal_flush_lsn FROM PUBLIC")
        database = await make_database(urls[0], database_replica_url=urls[1])
        await eventually(lambda: guard_of(database).lag.standing == "unmeasured")
        assert await port_of_reads(database) == pair.standby.port


async def test_a_server_that_lets_nobody_else_in_is_asked_over_the_pool(
    make_database: MakeDatabase, pair: Replication
) -> None:
    async with pair.primary.connect() as admin:
        await admin.execute(f"CREATE ROLE few LOGIN CONNECTION LIMIT 1 PASSWORD '{pair.primary.password}'")
    await pair.caught_up()
    database = await make_database(
        pair.primary.dsn(), database_replica_url=pair.standby.dsn(user="few"), pool_max_size=1
    )
    await eventually(lambda: guard_of(database).serves)
    assert guard_of(database).lag.standing == "current"


async def test_what_is_no_standby_is_read_and_its_lag_is_not_known(
    make_database: MakeDatabase, database_url: str, log: Log
) -> None:
    database = await make_database(database_replica_url=database_url)
    await eventually(lambda: guard_of(database).serves)
    assert guard_of(database).lag.lag is None
    assert [event for event, _ in told(log)] == ["replica_lag_not_measured"]
