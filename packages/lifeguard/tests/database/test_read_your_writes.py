"""A read with a write's token sees that write, and replicas serve it wherever they can."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import time

import asyncpg
import pytest
from lifeguard.database import CallScope, Database, Position, call_scope
from lifeguard.database.replica import Replica
from lifeguard.testing import pgbouncer
from lifeguard.testing.pgbouncer import NoPgBouncer
from lifeguard.testing.standby import Replication
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase

LONG = 10  # seconds that a read may wait for a replica
PORT = "SELECT current_setting('port')::int"
FAR = 2**40
"""Bytes of WAL that nobody has written."""


@pytest.fixture
async def database(replicated: Replication, make_database: MakeDatabase) -> Database:
    return await reading(replicated, make_database)


async def reading(replicated: Replication, make_database: MakeDatabase, **values: object) -> Database:
    """One that reads from the standby, however far that is behind."""
    patient = {"pool_queue_target": 0, "pool_acquire_timeout": 60}
    own = {
        "replica_max_lag": 1000,
        "consistency_wait": LONG,
        "database_replica_url": replicated.standby.dsn(),
    }
    database = await make_database(replicated.primary.dsn(), **{**own, **patient, **values})
    await eventually(lambda: replica_of(database).serves)
    return database


def replica_of(database: Database) -> Replica:
    guard = database.guards[1]
    assert isinstance(guard, Replica)
    return guard


@contextmanager
def a_call(**values: object) -> Iterator[CallScope]:
    """As a request has one."""
    call = CallScope("test", **values)  # type: ignore[arg-type]  # of several types
    token = call_scope.set(call)
    try:
        yield call
    finally:
        call_scope.reset(token)


async def write(database: Database) -> tuple[int, str]:
    """The id of a new row, and its token."""
    with a_call():
        async with database.transaction() as transaction:
            number = await transaction.fetchval("INSERT INTO things (n) VALUES (1) RETURNING id")
        token = database.token()
    assert token is not None
    return number, token


async def seen(database: Database, number: int, after: str) -> tuple[bool, int]:
    """Whether a read sees a row, and the port of the server that was read."""
    query = f"SELECT EXISTS (SELECT FROM things WHERE id = $1), ({PORT})"
    async with database.read(after=after) as connection:
        row = await connection.fetchrow(query, number)
    assert row is not None
    return row[0], row[1]


async def test_a_replica_that_has_the_write_serves_its_reader(
    replicated: Replication, database: Database
) -> None:
    number, token = await write(database)
    await replicated.caught_up()
    assert await seen(database, number, token) == (True, replicated.standby.port)


async def test_a_read_waits_for_a_replica_that_is_on_its_way(
    replicated: Replication, database: Database
) -> None:
    await replicated.replay(paused=True)
    number, token = await write(database)
    read = asyncio.create_task(seen(database, number, token))
    await eventually(lambda: bool(replica_of(database).lag.waiters))
    await replicated.replay(paused=False)
    assert await read == (True, replicated.standby.port)
    assert database.consistency.counts() == {"replica": 0, "waited": 1, "primary": 0, "lost": 0}


async def test_one_question_serves_all_that_wait(replicated: Replication, database: Database) -> None:
    await replicated.replay(paused=True)
    written = [await write(database) for _ in range(3)]
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(seen(database, *one)) for one in written * 20]
        await eventually(lambda: len(replica_of(database).lag.waiters) == len(reads))
        assert replica_of(database).pool.stats().used == 0  # nobody keeps a connection while it waits
        await replicated.replay(paused=False)
    assert {read.result() for read in reads} == {(True, replicated.standby.port)}


async def test_the_primary_serves_whom_no_replica_can_in_time(
    replicated: Replication, make_database: MakeDatabase
) -> None:
    database = await reading(replicated, make_database, consistency_wait=0.01)
    await replicated.replay(paused=True)
    number, token = await write(database)
    assert await seen(database, number, token) == (True, replicated.primary.port)
    assert (await seen(database, number, (await write(database))[1]))[0]
    async with database.read() as connection:  # who has no token does not mind
        assert await connection.fetchval(PORT) == replicated.standby.port


async def test_a_call_sees_its_own_writes(replicated: Replication, make_database: MakeDatabase) -> None:
    database = await reading(replicated, make_database, consistency_wait=0)
    await replicated.replay(paused=True)
    with a_call():
        await database.execute("INSERT INTO things (n) VALUES (7)")
        assert await database.fetchval("SELECT count(*) FROM things WHERE n = 7", read=True) == 1


async def test_what_was_committed_before_an_error_is_seen_too(
    replicated: Replication, make_database: MakeDatabase
) -> None:
    database = await reading(replicated, make_database, consistency_wait=0)
    await replicated.replay(paused=True)
    with a_call():
        with suppress(LookupError):
            async with database.connection() as connection:
                await connection.execute("INSERT INTO things (n) VALUES (8)")
                raise LookupError
        assert await database.fetchval("SELECT count(*) FROM things WHERE n = 8", read=True) == 1


async def test_only_what_may_have_written_has_a_token(replicated: Replication, database: Database) -> None:
    with a_call():
        async with database.transaction(read_only=True) as transaction:
            await transaction.fetchval("SELECT 1")
        with suppress(LookupError):
            async with database.transaction() as transaction:
                await transaction.execute("INSERT INTO things (n) VALUES (1)")
                raise LookupError
        assert await database.fetchval("SELECT 1", read=True) == 1
        assert database.token() is None
    with a_call(notes_writes=False):
        await database.execute("INSERT INTO things (n) VALUES (1)")
        assert database.token() is None


async def test_a_position_that_the_primary_has_not_reached_neither_waits_nor_asks_it_to_serve(
    replicated: Replication, database: Database
) -> None:
    """Of what was lost, or of a database that was restored: nothing will ever come of it."""
    number, token = await write(database)
    await replicated.caught_up()
    written = database.consistency.position(token)
    assert written is not None
    lost = written._replace(lsn=written.lsn + FAR)
    with a_call(after=lost):
        assert await database.fetchval(PORT, read=True) == replicated.standby.port
    assert database.consistency.reads == {"lost": 1}
    assert number


async def test_a_position_of_a_later_timeline_is_not_compared_by_its_number(
    replicated: Replication, database: Database
) -> None:
    await write(database)
    await replicated.caught_up()
    for position in (Position(2, 1, time()), Position(0, 0, time())):
        with a_call(after=position):
            assert await database.fetchval(PORT, read=True) == replicated.primary.port


async def test_a_replica_that_writes_a_wal_of_its_own_is_not_compared(
    replicated: Replication, make_database: MakeDatabase, database_url: str
) -> None:
    """A logical subscriber, for one. Nobody waits for it either."""
    database = await make_database(
        replicated.primary.dsn(), database_replica_url=database_url, consistency_wait=LONG
    )
    await eventually(lambda: replica_of(database).serves)
    for position in (Position(1, 1, time()), (await noted(database))):
        with a_call(after=position):
            assert await database.fetchval(PORT, read=True) == replicated.primary.port


async def noted(database: Database) -> Position:
    with a_call() as call:
        await database.execute("INSERT INTO things (n) VALUES (1)")
        assert call.written is not None
        return call.written


async def test_an_old_token_is_ignored(replicated: Replication, make_database: MakeDatabase) -> None:
    database = await reading(replicated, make_database, consistency_wait=0)
    await replicated.replay(paused=True)
    with a_call() as call:
        await database.execute("INSERT INTO things (n) VALUES (1)")
        assert call.written is not None
        call.written = call.written._replace(noted_at=time() - database.consistency.ttl - 1)
        token = database.token()
    assert token is not None
    async with database.read(after=token) as connection:
        assert await connection.fetchval(PORT) == replicated.standby.port


async def test_a_write_that_is_not_flushed_yet_is_seen(replicated: Replication, database: Database) -> None:
    for _ in range(3):
        with a_call():
            async with database.transaction() as transaction:
                await transaction.execute("SET LOCAL synchronous_commit = off")
                number = await transaction.fetchval("INSERT INTO things (n) VALUES (1) RETURNING id")
            token = database.token()
        assert token is not None
        assert (await seen(database, number, token))[0]


async def test_another_instance_reads_the_token_without_any_setting(
    replicated: Replication, make_database: MakeDatabase, database: Database
) -> None:
    number, token = await write(database)
    other = await reading(replicated, make_database)
    assert (await seen(other, number, token))[0]


@pytest.mark.slow
async def test_a_token_outlives_a_failover(replication: Replication, make_database: MakeDatabase) -> None:
    """The write was replayed before: the new primary has it, at the same place, on a later timeline."""
    pair = replication
    async with pair.primary.connect() as admin:
        await admin.execute("CREATE TABLE things (id bigserial PRIMARY KEY, n int NOT NULL)")
    await pair.caught_up()
    hosts = f"127.0.0.1:{pair.primary.port},127.0.0.1:{pair.standby.port}"
    url = pair.primary.dsn().replace(f"127.0.0.1:{pair.primary.port}", hosts)
    database = await make_database(
        f"{url}?target_session_attrs=primary",
        database_replica_url=pair.standby.dsn(),
        replica_max_lag=1000,
        consistency_wait=LONG,
    )
    await eventually(lambda: replica_of(database).serves)
    number, token = await write(database)
    await pair.caught_up()
    await pair.fail_over()
    assert (await seen(database, number, token))[0]

    async def writes() -> bool:
        try:
            await write(database)
        except Exception:  # noqa: BLE001 - whatever the failover does to it
            return False
        return True

    await eventually(writes, 30)
    number, later = await write(database)
    position = database.consistency.position(later)
    assert position is not None
    assert position.timeline > 1
    assert (await seen(database, number, later))[0]
    assert (await seen(database, number, token))[0]


async def test_behind_a_pooler_a_replica_is_asked_and_read_in_one_transaction(
    replicated: Replication, make_database: MakeDatabase
) -> None:
    """The next transaction may be at another server: a pooler, and what it connects to, may have several."""
    try:
        pgbouncer.program()
    except NoPgBouncer as missing:
        pytest.skip(str(missing))
    async with pgbouncer.pgbouncer(replicated.standby.dsn(), settings={"default_pool_size": 2}) as front:
        database = await reading(
            replicated, make_database, database_replica_url=front.url(replicated.standby.dsn())
        )
        number, token = await write(database)
        await replicated.caught_up()
        assert await seen(database, number, token) == (True, replicated.standby.port)
        async with database.read(after=token) as connection:
            begins = [await connection.fetchval("SELECT now()") for _ in range(2)]
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetchval("SELECT 1 / 0")
        assert begins[0] == begins[1]
        async with database.read() as connection:
            begins = [await connection.fetchval("SELECT now()") for _ in range(2)]
        assert begins[0] != begins[1]


async def test_without_replicas_nothing_is_asked(
    make_database: MakeDatabase, replicated: Replication
) -> None:
    database = await make_database(replicated.primary.dsn())
    with a_call() as call:
        await database.execute("INSERT INTO things (n) VALUES (1)")
        assert call.written is None
        assert database.token() is None
        async with database.read(after="whatever") as connection:
            assert await connection.fetchval(PORT) == replicated.primary.port
