"""Several replicas: which one is read, and what becomes of reads when one goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.database import (
    CallScope,
    Database,
    DatabaseUnavailable,
    ReadConnection,
    Replica,
    call_scope,
)
from lifeguard.database.replicas import Replicas, lane_instead
from lifeguard.pool import OutsideLane
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.standby import Replication, replication
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, MakeDatabase

# Where it is run, and for long at a standby.
PORT_OF_LONG_READ = """
SELECT current_setting('port')::int, CASE WHEN pg_is_in_recovery() THEN pg_sleep(600) END FROM things
"""

# -- which one is chosen ---------------------------------------------------------------------------


@dataclass(eq=False)
class Candidate:
    """What is asked of a replica, and of its pool."""

    loans: int
    chosen_at: float
    serves: bool
    replayed_lsn: int
    size: int

    @property
    def pool(self) -> "Candidate":
        return self

    def get_max_size(self) -> int:
        return self.size


CANDIDATES = st.builds(
    Candidate,
    loans=st.integers(0, 4),
    chosen_at=st.floats(0, 9),
    serves=st.booleans(),
    replayed_lsn=st.integers(-1, 4),
    size=st.integers(1, 5),
)


@given(st.lists(CANDIDATES, max_size=5), st.none() | st.integers(0, 4), st.integers(0, 2))
def test_of_those_that_serve_the_one_with_the_fewest_loans_is_read(
    candidates: list[Candidate], after: int | None, tried: int
) -> None:
    replicas = Replicas.__new__(Replicas)
    replicas.all = cast("tuple[Replica, ...]", tuple(candidates))
    but = replicas.all[:tried]
    chosen = cast("Candidate | None", replicas.choose(after, but=but))
    fit = [one for one in candidates[tried:] if one.serves and (after is None or one.replayed_lsn >= after)]
    if chosen is None:
        assert not fit
        return
    assert chosen in fit
    room = [one for one in fit if one.loans < one.size]
    rivals = room or fit
    assert chosen in rivals
    assert chosen.loans == min(one.loans for one in rivals)
    assert chosen.chosen_at == min(one.chosen_at for one in rivals if one.loans == chosen.loans)


def test_reads_that_no_replica_serves_have_a_lane_of_their_own() -> None:
    assert lane_instead("reports") == "for a replica: reports"
    assert lane_instead(OutsideLane("tenant:a")) == OutsideLane("for a replica: tenant:a")
    assert lane_instead(None) is None


# -- with servers ----------------------------------------------------------------------------------


@pytest.fixture
async def trio(cluster: Path) -> AsyncIterator[Replication]:
    async with replication(cluster, standbys=2) as trio:
        yield trio


def urls(*servers: PostgresServer | Proxy) -> str:
    return " ".join(server.dsn() if isinstance(server, PostgresServer) else server.dsn for server in servers)


def replicas_of(database: Database) -> tuple[Replica, ...]:
    return cast("tuple[Replica, ...]", database.guards[1:])


async def serving(database: Database, *numbers: int) -> None:
    """Wait until these replicas serve, and the others do not."""

    def which() -> list[int]:
        return [number for number, replica in enumerate(replicas_of(database), 1) if replica.serves]

    await eventually(lambda: which() == list(numbers))


async def port(connection: ReadConnection) -> int:
    return int(await connection.fetchval("SELECT current_setting('port')::int"))


async def ports(database: Database, reads: int = 6) -> set[int]:
    found = set()
    for _ in range(reads):
        async with database.read() as connection:
            found.add(await port(connection))
    return found


def told(log: Log) -> list[tuple[object, ...]]:
    return [
        tuple(entry[name] for name in ("event", "replica", "reason", "reads") if name in entry)
        for entry in log
        if entry["event"] in {"replica_out_of_service", "replica_serves_again", "read_repeated"}
    ]


@pytest.mark.slow
async def test_reads_are_shared_leave_who_is_gone_and_come_back(
    make_database: MakeDatabase, trio: Replication, log: Log
) -> None:
    one, two = trio.standbys
    database = await make_database(trio.primary.dsn(), database_replica_url=urls(one, two))
    await serving(database, 1, 2)
    assert await ports(database) == {one.port, two.port}  # one after the other while all are idle
    async with database.read() as first, database.read() as second, database.read() as third:
        assert {await port(first), await port(second)} == {one.port, two.port}
        await port(third)
        assert sorted(replica.loans for replica in replicas_of(database)) == [1, 2]
    await one.stop("immediate")
    await eventually(lambda: told(log))
    assert await ports(database) == {two.port}  # nobody is refused
    await two.stop("immediate")
    await eventually(lambda: len(told(log)) == 2)
    call_scope.set(CallScope("test", lane="reports"))
    async with database.read() as connection:
        assert await port(connection) == trio.primary.port
        (lease,) = database.primary.leases()
        assert lease.lane == "for a replica: reports"
    await two.start()
    await eventually(lambda: len(told(log)) == 3)
    assert await ports(database) == {two.port}
    events = told(log)
    assert [event[:2] for event in events] == [
        ("replica_out_of_service", "replica-1"),
        ("replica_out_of_service", "replica-2"),
        ("replica_serves_again", "replica-2"),
    ]
    assert [event[-1] for event in events[:2]] == ["other replicas", "primary"]


@pytest.mark.slow
async def test_one_that_is_promoted_is_left_and_one_that_is_the_primary_is_not_read_as_a_replica(
    make_database: MakeDatabase, trio: Replication, log: Log
) -> None:
    one, two = trio.standbys
    database = await make_database(trio.primary.dsn(), database_replica_url=urls(one, two, trio.primary))
    await serving(database, 1, 2)
    assert await ports(database) == {one.port, two.port}
    assert replicas_of(database)[2].lag.standing == "primary"
    await one.promote()
    await serving(database, 2)
    assert replicas_of(database)[0].lag.standing == "promoted"
    assert await ports(database) == {two.port}
    assert ("replica_out_of_service", "replica-1", "it is no standby any more", "other replicas") in told(log)


@pytest.mark.slow
async def test_after_a_switchover_the_new_primary_is_the_primary_among_the_replicas(
    make_database: MakeDatabase, trio: Replication, log: Log
) -> None:
    """Each server is in both URLs, so that none of them has to be changed."""
    one, two = trio.standbys
    servers = (trio.primary, one, two)
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    url = trio.primary.dsn().replace(f"127.0.0.1:{trio.primary.port}", hosts)
    database = await make_database(url, database_replica_url=urls(*servers))
    old, new = (replica.lag for replica in replicas_of(database)[:2])
    await eventually(lambda: old.standing == "primary")
    (told_of_it,) = [entry for entry in log if entry.get("replica") == "replica-1" and "reads" in entry]
    assert (told_of_it["reason"], told_of_it["log_level"]) == ("it is the primary", "info")
    assert told_of_it["host"] == f"127.0.0.1:{trio.primary.port}"
    await serving(database, 2, 3)
    await trio.fail_over()
    await eventually(lambda: new.standing == "primary", 60)
    assert new.reason == "it is the primary"


@pytest.mark.slow
async def test_a_standby_that_still_follows_the_old_primary_is_left(
    make_database: MakeDatabase, trio: Replication
) -> None:
    """After a failover it has nothing of what the new primary writes, however close their places are."""
    one, two = trio.standbys
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (trio.primary, one))
    url = trio.primary.dsn().replace(f"127.0.0.1:{trio.primary.port}", hosts)
    database = await make_database(url, database_replica_url=two.dsn())
    await serving(database, 1)
    assert replicas_of(database)[0].timeline == 1
    await trio.fail_over()
    watch = database._replicas._watch
    await eventually(lambda: watch.timeline == 2, 30)
    await serving(database)
    assert replicas_of(database)[0].obstacle == "it is behind: it follows another timeline"
    assert await ports(database) == {one.port}


@pytest.mark.slow
async def test_one_that_has_too_little_of_the_wal_is_left(
    make_database: MakeDatabase, trio: Replication
) -> None:
    one, two = trio.standbys
    database = await make_database(
        trio.primary.dsn(),
        database_replica_url=urls(one, two),
        replica_max_lag=3600,
        replica_max_lag_bytes=100_000,
    )
    await serving(database, 1, 2)
    async with one.connect() as standby, trio.primary.connect() as admin:
        await standby.execute("SELECT pg_wal_replay_pause()")
        await admin.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 200000), true)")
        await serving(database, 2)
        await standby.execute("SELECT pg_wal_replay_resume()")
    await serving(database, 1, 2)


# -- reads under way -------------------------------------------------------------------------------


async def long_read(database: Database, *before: str) -> int:
    async with database.read() as connection:
        for statement in before:
            await connection.fetchval(statement)
        return int(await connection.fetchval(PORT_OF_LONG_READ))


async def until_reading(standby: PostgresServer) -> None:
    async def is_reading() -> bool:
        return any(session["wait_event"] == "PgSleep" for session in await standby.backends())

    await eventually(is_reading)


async def with_table(pair: Replication) -> None:
    async with pair.primary.connect() as admin:
        await admin.execute("CREATE TABLE things AS SELECT 1 AS n")
    await pair.caught_up()


@pytest.mark.slow
async def test_a_read_that_replay_cancels_is_repeated_on_the_primary_once(
    make_database: MakeDatabase, cluster: Path, log: Log
) -> None:
    async with replication(cluster, max_standby_streaming_delay="0") as pair:
        await with_table(pair)
        database = await make_database(
            pair.primary.dsn(),
            database_replica_url=pair.standby.dsn(),
            statement_timeout=600,
            command_timeout=900,
        )
        await serving(database, 1)

        async def cancel(reading: asyncio.Task[int]) -> None:
            await until_reading(pair.standby)
            async with pair.primary.connect() as admin:

                async def is_over() -> bool:
                    await admin.execute("UPDATE things SET n = n + 1")
                    await admin.execute("VACUUM things")
                    return reading.done()

                await eventually(is_over, 60)
            await pair.caught_up()  # what is still to be replayed would cancel the next one too

        reading = asyncio.create_task(long_read(database, "SELECT 1"))
        await cancel(reading)
        assert await reading == pair.primary.port
        assert database.reads == {"replica": 1, "primary": 1}
        assert replicas_of(database)[0].repeated == 1
        assert told(log) == [("read_repeated", "replica")]
        reading = asyncio.create_task(long_read(database, "SELECT set_config('my.setting', 'on', false)"))
        await cancel(reading)
        with pytest.raises(asyncpg.SerializationError):
            await reading
        assert await ports(database) == {pair.standby.port}


@pytest.mark.slow
async def test_what_was_asked_of_a_replica_that_has_frozen_is_asked_of_the_primary(
    make_database: MakeDatabase, trio: Replication, log: Log
) -> None:
    await with_table(trio)
    async with AsyncExitStack() as stack:
        roads = [await stack.enter_async_context(Proxy(one.dsn()).serve()) for one in trio.standbys]
        database = await make_database(
            trio.primary.dsn(), database_replica_url=urls(*roads), statement_timeout=600, command_timeout=900
        )
        await serving(database, 1, 2)
        reading = [asyncio.create_task(long_read(database)) for _ in roads]
        for standby in trio.standbys:
            await until_reading(standby)
        for road in roads:
            road.hold_new = True
            road.silence()
        assert await asyncio.gather(*reading) == [trio.primary.port] * 2
        assert {event[1] for event in told(log) if event[0] == "read_repeated"} == {"replica-1", "replica-2"}
        for road in roads:
            road.resume()
        await serving(database, 1, 2)


@pytest.mark.slow
async def test_what_was_asked_of_a_replica_that_restarts_is_asked_of_the_primary(
    make_database: MakeDatabase, cluster: Path, log: Log
) -> None:
    async with replication(cluster) as pair:
        await with_table(pair)
        database = await make_database(
            pair.primary.dsn(),
            database_replica_url=pair.standby.dsn(),
            statement_timeout=600,
            command_timeout=900,
            pool_outage_patience=600,
        )
        await serving(database, 1)
        for before in [], ["SELECT set_config('my.setting', 'on', false)"]:
            reading = asyncio.create_task(long_read(database, *before))
            await until_reading(pair.standby)
            await pair.standby.stop()
            if before:
                with pytest.raises(DatabaseUnavailable):
                    await reading
            else:
                assert await reading == pair.primary.port
            await pair.standby.start()
            await serving(database, 1)
        assert database.reads == {"replica": 2, "primary": 1}
        assert told(log).count(("read_repeated", "replica")) == 1
