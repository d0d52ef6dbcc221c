"""Through a real PgBouncer in transaction mode: the one that PGBOUNCER names, or the installed one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from lifeguard.database import CallScope, DatabaseUnavailable, MigrationError, call_scope
from lifeguard.database.migrations import upgrade
from lifeguard.operations import doctor
from lifeguard.pool import PoolError, SessionStateRefused
from lifeguard.testing import pgbouncer as program
from lifeguard.testing.pgbouncer import NoPgBouncer, PgBouncer, pgbouncer
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.revisions import Revisions
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, MakeDatabase, settings_for

Front = Callable[..., AbstractAsyncContextManager[PgBouncer]]
KEEPS_STATEMENTS = (1, 21)
LIMITS = {"statement_timeout": "10s", "lock_timeout": "3s", "idle_in_transaction_session_timeout": "30s"}


@pytest.fixture(scope="session")
def version() -> tuple[int, ...]:
    try:
        return program.version(program.program())
    except NoPgBouncer as missing:
        pytest.skip(str(missing))


@pytest.fixture
def front(version: tuple[int, ...], database_url: str) -> Front:
    return partial(pgbouncer, database_url)


@pytest.fixture
async def through(front: Front, database_url: str) -> AsyncIterator[str]:
    """The URL of the test's database through one that has nothing but the mode; of two sessions at most, so
    that statements of one connection come to run in both."""
    async with front(settings={"default_pool_size": 2}) as bouncer:
        yield bouncer.url(database_url)


async def test_it_is_found_and_told(
    make_database: MakeDatabase, through: str, version: tuple[int, ...], log: Log
) -> None:
    database = await make_database(through)
    await database.fetchval("SELECT 1")
    pooler = database.primary.pooler
    assert pooler is not None
    assert pooler.product == "PgBouncer"
    assert pooler.keeps_statements == (version >= KEEPS_STATEMENTS)
    assert pooler.lacks == set(LIMITS)
    direct = await make_database()
    await direct.fetchval("SELECT 1")
    assert direct.primary.pooler is None
    findings = {
        finding.topic: finding async for finding in doctor.examine(settings_for(through, pool_max_size=300))
    }
    assert "PgBouncer in between" in findings["primary pooler"].finding
    assert "max_client_conn at least" in findings["primary sizing"].finding
    lacks = findings["primary timeouts"]
    assert (lacks.level, "SET statement_timeout = '10000ms';" in lacks.advice) == ("warn", True)
    assert "by its own settings" in findings["primary keepalive"].finding
    assert [one.check for one in findings.values() if one.level == "fail"] == ["schema"]  # not migrated
    counting = settings_for(through, pool_instances="auto")
    sizing = {finding.topic: finding async for finding in doctor.examine(counting)}["primary sizing"]
    assert (sizing.level, "behind a pooler" in sizing.finding) == ("fail", True)
    unseen = [one for one in findings.values() if "could not look" in one.finding]
    assert [one.check for one in unseen] == ["statements"]  # as without a pooler
    assert log is not None


async def test_where_the_role_has_the_limits_statements_need_no_transaction(
    make_database: MakeDatabase, through: str, database_url: str
) -> None:
    name = urlsplit(database_url).path.strip("/")
    async with PostgresSession(database_url) as admin:
        for setting, value in LIMITS.items():
            await admin.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    database = await make_database(through)
    begun = "SELECT now() < statement_timestamp() - interval '0', pg_current_xact_id_if_assigned()"
    assert await database.fetchrow(begun) is not None
    assert database.primary.pooler is not None
    assert not database.primary.pooler.lacks
    async with database.connection() as connection:
        assert await connection.fetchval("SHOW lock_timeout") == "3s"
        # In a transaction of its own it would be an error to have one that cannot be in any.
        await connection.execute("SELECT 1; COMMIT")


async def test_statements_of_many_connections_do_not_get_into_each_other_s_way(
    make_database: MakeDatabase, through: str
) -> None:
    """Two sessions serve them all: names would be taken, or unknown."""
    first, second = [
        await make_database(through, pool_queue_target=0, pool_acquire_timeout=60) for _ in range(2)
    ]
    await first.execute("CREATE TABLE numbers (number int, mood text)")

    async def work(number: int) -> int:
        database = (first, second)[number % 2]
        async with database.transaction() as transaction:
            await transaction.execute("INSERT INTO numbers VALUES ($1, $2)", number, "fine")
            rows = [
                row
                async for row in transaction.cursor("SELECT $1::int + n FROM generate_series(1, 3) n", number)
            ]
        found = await database.fetchval(
            f"SELECT number + {number % 3} FROM numbers WHERE number = $1", number
        )
        many = await database.fetch("SELECT ARRAY[number], mood FROM numbers WHERE number = $1", number)
        assert [row[0] for row in many] == [[number]]
        return int(found) - number % 3 + len(rows)

    assert await asyncio.gather(*(work(number) for number in range(60))) == [n + 3 for n in range(60)]
    await first.execute("ALTER TABLE numbers ALTER number TYPE bigint, ADD more int")  # under prepared ones
    assert [len(row) for row in await second.fetch("SELECT * FROM numbers WHERE number = $1", 1)] == [3]
    await first.execute("ALTER TABLE numbers DROP more")
    assert [len(row) for row in await second.fetch("SELECT * FROM numbers WHERE number = $1", 1)] == [2]
    async with first.connection() as connection:
        prepared = await connection.prepare("SELECT $1::int")  # type: ignore[attr-defined]  # asyncpg's
        assert [await prepared.fetchval(1), await first.fetchval("SELECT 5"), await prepared.fetchval(2)] == [
            1,
            5,
            2,
        ]


@pytest.mark.parametrize(
    ("statement", "instead"),
    [
        ("SET statement_timeout = 0", "SET LOCAL"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET LOCAL"),
        ("SELECT 1; SET ROLE postgres", "SET LOCAL"),
        ("LISTEN news", "without the pooler"),
        ("PREPARE p AS SELECT 1", "leave it to the driver"),
        ("DEALLOCATE ALL", "leave it out"),
        ("DISCARD ALL", "leave it out"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "inside its transaction"),
        ("CREATE TEMP TABLE t (a int)", "ON COMMIT DROP"),
        ("SELECT 1 AS a INTO TEMPORARY t", "ON COMMIT DROP"),
        ("SELECT pg_advisory_lock(1)", "pg_advisory_xact_lock"),
        ("SELECT pg_catalog.set_config('work_mem', '5MB', false)", "third argument"),
    ],
)
async def test_what_would_stay_in_a_session_is_refused_and_says_what_to_do_instead(
    pooled: Any, statement: str, instead: str
) -> None:
    async with pooled.connection() as connection:
        with pytest.raises(SessionStateRefused, match=instead):
            await connection.execute(statement)
        assert not connection.is_closed()
        assert await connection.fetchval("SELECT 1") == 1


@pytest.fixture(scope="module")
async def pooled(postgres: PostgresServer, version: tuple[int, ...]) -> AsyncIterator[Any]:
    """The database layer through one that several tests share."""
    from lifeguard.database import Database  # noqa: PLC0415

    async with (
        pgbouncer(postgres.dsn()) as bouncer,
        Database(settings_for(bouncer.url(postgres.dsn()))) as database,
    ):
        yield database


async def test_nobody_listens_through_it(pooled: Any) -> None:
    async with pooled.connection() as connection:
        with pytest.raises(SessionStateRefused, match="LISTEN was not sent"):
            await connection.add_listener("news", print)


async def test_what_ends_with_its_transaction_is_not_refused(pooled: Any) -> None:
    async with pooled.transaction() as transaction:
        await transaction.execute("SET LOCAL work_mem = '5MB'; CREATE TEMP TABLE t (a int) ON COMMIT DROP")
        await transaction.execute("SELECT pg_advisory_xact_lock(1), set_config('work_mem', '6MB', true)")
        assert await transaction.fetchval("SHOW work_mem") == "6MB"
    async with pooled.connection() as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS plain (temp int)")
        await connection.execute("VACUUM plain")  # which can be in no transaction
        await connection.execute("CREATE INDEX CONCURRENTLY IF NOT EXISTS plain_temp ON plain (temp)")
        await connection.execute("DROP TABLE plain")


async def test_a_read_under_a_lock_ends_by_the_lock_s_timeout_and_by_the_call_s(
    make_database: MakeDatabase, through: str, database_url: str
) -> None:
    database = await make_database(through, lock_timeout=0.3)
    await database.execute("CREATE TABLE locked (a int)")
    async with PostgresSession(database_url) as other, other.transaction():
        await other.execute("LOCK TABLE locked")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await database.fetch("SELECT * FROM locked", read=True)
        loop = asyncio.get_running_loop()
        token = call_scope.set(CallScope("hasty", loop.time() + 0.15))
        try:
            for _ in range(5):  # whoever is first, the server or this side: it is a timeout
                call_scope.set(CallScope("hasty", loop.time() + 0.15))
                with pytest.raises((asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError, TimeoutError)):
                    await database.fetch("SELECT * FROM locked", read=True)
        finally:
            call_scope.reset(token)
    assert await database.fetch("SELECT * FROM locked", read=True) == []


async def test_a_restart_of_the_server_behind_it_is_an_outage_and_is_over_by_itself(
    server_factory: ServerFactory, make_database: MakeDatabase, version: tuple[int, ...]
) -> None:
    del version
    server = await server_factory()
    settings = {"server_login_retry": 1, "query_wait_timeout": 5}
    async with pgbouncer(server.dsn(), settings=settings) as bouncer:
        database = await make_database(bouncer.url(server.dsn()))
        assert await database.fetchval("SELECT 1") == 1
        raised: list[BaseException] = []
        stop = asyncio.Event()

        async def ask() -> None:
            while not stop.is_set():
                try:
                    await database.fetchval("SELECT 1")
                except (PoolError, DatabaseUnavailable) as error:
                    raised.append(error)
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask()) for _ in range(3)]
            await server.stop("immediate")
            await eventually(lambda: raised)
            await server.start()

            async def serves() -> bool:
                try:
                    return bool(await database.fetchval("SELECT true"))
                except (PoolError, DatabaseUnavailable):
                    return False

            assert await eventually(serves)
            stop.set()
            await asyncio.wait(asking)


async def test_one_that_allows_no_transactions_is_named(
    make_database: MakeDatabase, front: Front, database_url: str, log: Log
) -> None:
    async with front(settings={"pool_mode": "statement"}) as bouncer:
        database = await make_database(bouncer.url(database_url))
        await eventually(lambda: database.primary.stats().last_error)
        stats = database.primary.stats()
        assert stats.fault == "pooler"
        assert "allows no transactions" in str(stats.last_error)
    assert log is not None


async def test_nothing_is_migrated_through_it(through: str, add_revision: Revisions) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    with pytest.raises(MigrationError, match="reaches the server itself"):
        await upgrade(settings_for(through))


async def test_the_pools_may_be_larger_than_the_server(make_database: MakeDatabase, through: str) -> None:
    database = await make_database(through, pool_min_size=1, pool_max_size=500)
    assert await database.fetchval("SELECT 1") == 1
    assert database.oversized is None


async def test_options_that_it_would_drop_are_named(make_database: MakeDatabase, through: str) -> None:
    database = await make_database(f"{through}?options=-c%20work_mem%3D5MB")
    await eventually(lambda: database.primary.stats().last_error)
    assert "drops options; write ?name=value" in str(database.primary.stats().last_error)


class PostgresSession:
    """A session of the test's own that goes past the pooler."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Any:
        self._connection = await asyncpg.connect(self._url)
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close(timeout=5)
