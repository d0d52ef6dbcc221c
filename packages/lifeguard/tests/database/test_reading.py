"""Where reads go, and when they end."""

import asyncpg
import pytest
from lifeguard.database import (
    Database,
    DatabaseUnavailable,
    DeadlineExceeded,
    ReadConnection,
    WriteRefused,
    call_scope,
    retry_idempotent,
)
from lifeguard.pool import PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.proxy import full_backlog
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, MakeDatabase, within
from packages.lifeguard.tests.stopwatch import Stopwatch


async def port(connection: ReadConnection) -> int:
    value: int = await connection.fetchval("SELECT current_setting('port')::int")
    return value


async def read_port(database: Database) -> int:
    async with database.read() as connection:
        return await port(connection)


@pytest.fixture
async def replica(server_factory: ServerFactory) -> PostgresServer:
    """Another server; whether it really follows the first makes no difference here."""
    return await server_factory()


@pytest.fixture
async def database(make_database: MakeDatabase, replica: PostgresServer) -> Database:
    database = await make_database(database_replica_url=replica.dsn())
    await eventually(lambda: database.guards[1].serves)
    return database


async def test_without_a_replica_reads_go_to_the_primary(
    make_database: MakeDatabase, postgres: PostgresServer
) -> None:
    assert await read_port(await make_database()) == postgres.port


async def test_with_a_replica_only_reads_go_there(
    database: Database, replica: PostgresServer, postgres: PostgresServer
) -> None:
    assert await read_port(database) == replica.port
    async with database.connection() as connection:
        assert await port(connection) == postgres.port
    async with database.transaction(read_only=True) as transaction:
        assert await port(transaction) == postgres.port


async def test_reads_fall_back_to_the_primary_while_the_replica_is_away(
    database: Database, replica: PostgresServer, postgres: PostgresServer, log: Log
) -> None:
    pool = database.replica
    assert pool is not None
    await replica.stop()
    await eventually(lambda: pool.get_size() == 0)
    assert {await read_port(database) for _ in range(3)} == {postgres.port}
    await replica.start()
    await eventually(lambda: database.guards[1].serves)
    assert await read_port(database) == replica.port
    told = [entry["event"] for entry in log if entry["event"].startswith(("replica_out", "replica_serves"))]
    assert told == ["replica_out_of_service", "replica_serves_again"]


async def test_nobody_waits_for_a_replica_that_does_not_answer(
    make_database: MakeDatabase, postgres: PostgresServer
) -> None:
    with full_backlog() as port:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        database = await make_database(database_replica_url=url)
        async with Stopwatch() as watch:
            assert await read_port(database) == postgres.port
        assert watch.seconds < 1


async def test_a_busy_replica_does_not_send_its_load_to_the_primary(
    make_database: MakeDatabase, replica: PostgresServer
) -> None:
    database = await make_database(
        database_replica_url=replica.dsn(), pool_max_size=1, pool_acquire_timeout=0.3
    )
    await eventually(lambda: database.guards[1].serves)
    async with database.read():
        with pytest.raises((PoolTimeout, PoolSaturated)):
            await read_port(database)


async def test_a_statement_outside_a_transaction_ends_with_the_deadline_too(
    make_database: MakeDatabase,
) -> None:
    database = await make_database()
    await database.primary.wait_ready(60)
    call_scope.set(within(0.5))
    async with database.read() as connection:
        async with Stopwatch() as watch:
            with pytest.raises(TimeoutError):
                await connection.fetchval("SELECT pg_sleep(10)")
        assert watch.seconds < 0.7


async def test_what_is_left_of_the_deadline_shrinks_from_statement_to_statement(
    make_database: MakeDatabase,
) -> None:
    database = await make_database()

    async def work() -> None:
        async with database.connection() as connection:
            for _ in range(10):
                await connection.execute("SELECT pg_sleep(0.15)")

    async with Stopwatch() as watch:
        call_scope.set(within(0.4))
        with pytest.raises(TimeoutError):
            await work()
    assert watch.seconds < 0.6


async def test_nothing_is_borrowed_after_the_deadline(make_database: MakeDatabase) -> None:
    database = await make_database()
    call_scope.set(within(-1))
    with pytest.raises(DeadlineExceeded):
        await read_port(database)


async def test_the_deadline_shortens_the_wait_for_a_connection(make_database: MakeDatabase) -> None:
    database = await make_database(pool_max_size=1)
    async with database.connection():
        call_scope.set(within(0.1))
        async with Stopwatch() as watch:
            with pytest.raises((PoolTimeout, PoolSaturated)):
                async with database.connection():
                    pass
        assert watch.seconds < 0.3


async def test_everything_else_of_a_connection_works_under_a_deadline(
    make_database: MakeDatabase,
) -> None:
    database = await make_database()
    call_scope.set(within(10))
    async with database.transaction() as transaction:
        await transaction.execute("CREATE TABLE things (id int)")
        await transaction.executemany("INSERT INTO things VALUES ($1)", [(1,), (2,)])
        await transaction.copy_records_to_table("things", records=[(3,)])
        async with transaction.transaction():
            rows = await transaction.fetch("SELECT id FROM things ORDER BY id")
        streamed = [row["id"] async for row in transaction.cursor("SELECT id FROM things")]
        row = await transaction.fetchrow("SELECT count(*) FROM things")
        assert transaction.is_in_transaction()
        assert not transaction.is_closed()
    assert [record["id"] for record in rows] == streamed == [1, 2, 3]
    assert row is not None
    assert row[0] == 3


async def test_a_database_that_is_not_there_says_so(make_database: MakeDatabase) -> None:
    dead = f"postgresql://postgres@127.0.0.1:{unused_port()}/postgres"
    database = await make_database(dead)
    with pytest.raises((PoolUnavailable, DatabaseUnavailable)):  # the pool's word, or its breaker's
        await read_port(database)


# -- what only reads -------------------------------------------------------------------------------

WRITES = ["INSERT INTO things VALUES (2, 2) RETURNING n", "DELETE FROM things RETURNING n"]


@pytest.mark.parametrize("deadline", [None, 10])
async def test_what_is_lent_for_reading_sends_no_write(
    make_database: MakeDatabase, deadline: float | None
) -> None:
    database = await make_database(breaker_fail_max=1)
    await database.execute("CREATE TABLE things (id int, n int)")
    if deadline is not None:
        call_scope.set(within(deadline))
    for statement in WRITES:
        for method in ("fetch", "fetchrow", "fetchval"):
            with pytest.raises(WriteRefused, match=f"{statement[:6]}.* was not sent"):
                async with database.read() as connection:
                    await getattr(connection, method)(statement)
            with pytest.raises(WriteRefused):
                await getattr(database, method)(statement, read=True)
    async with database.read() as connection:
        others = {name for name in dir(connection) if not name.startswith("_")}
        assert others == {"fetch", "fetchrow", "fetchval", "is_closed"}
        assert await connection.fetchval("SELECT count(*) FROM things") == 0
        assert await connection.fetchval("SELECT $1::int, $2::int", 1, 2, column=1) == 2
    assert await database.fetchval("INSERT INTO things VALUES (3, 3) RETURNING n") == 3
    assert not database.breaker.transitions


async def test_what_a_function_writes_is_refused_by_the_replica_and_no_reason_to_leave_anybody(
    make_database: MakeDatabase, replica: PostgresServer, log: Log
) -> None:
    url = f"{replica.dsn()}?default_transaction_read_only=on"  # as a standby refuses it
    database = await make_database(database_replica_url=url, breaker_fail_max=1)
    await eventually(lambda: database.guards[1].serves)
    connection = await asyncpg.connect(replica.dsn())
    await connection.execute("CREATE TABLE things (n int)")
    await connection.execute(
        "CREATE FUNCTION add() RETURNS int LANGUAGE sql AS 'INSERT INTO things VALUES (1) RETURNING n'"
    )
    await connection.close()
    attempts = 0

    async def work() -> object:
        nonlocal attempts
        attempts += 1
        return await database.fetchval("SELECT add()", read=True)

    with pytest.raises(WriteRefused) as refused:
        await retry_idempotent(work)
    assert isinstance(refused.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
    assert attempts == 1
    assert await read_port(database) == replica.port
    assert not any(guard.breaker.transitions for guard in database.guards)
    assert "replica_out_of_service" not in [entry["event"] for entry in log]


async def test_a_primary_that_refuses_to_write_is_not_blamed_on_who_reads_beside_it(
    make_database: MakeDatabase,
) -> None:
    database = await make_database()
    await database.execute("CREATE TABLE things (n int)")

    async def work() -> None:
        async with database.read() as connection, database.transaction(read_only=True) as transaction:
            await connection.fetchval("SELECT 1")
            await transaction.execute("DELETE FROM things")

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await work()
