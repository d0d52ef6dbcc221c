"""Each thing broken for real, and the line that says so and what to do."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import asyncpg
import pytest
from lifeguard.operations.checks import reaching, sessions
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.standby import Replication

from packages.lifeguard.tests.doctor.reports import report, told

Break = Callable[[asyncpg.Connection], Awaitable[None]]


async def leave_an_invalid_index(admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE TABLE twice AS SELECT 1 AS n FROM generate_series(1, 2)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await admin.execute("CREATE UNIQUE INDEX CONCURRENTLY one_each ON twice (n)")


async def delete_what_unindexed_rows_refer_to(admin: asyncpg.Connection) -> None:
    await admin.execute("""
        CREATE TABLE parents (id int PRIMARY KEY);
        CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);
        INSERT INTO parents SELECT generate_series(1, 3);
        INSERT INTO children SELECT n, 1 FROM generate_series(1, 2000) AS n;
        DELETE FROM parents WHERE id = 3;
        ANALYZE parents, children;
    """)
    await admin.execute("SELECT pg_stat_force_next_flush()")


async def index_twice(admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE TABLE busy (id int PRIMARY KEY, n int)")
    await admin.execute("CREATE INDEX busy_first ON busy (n); CREATE INDEX busy_again ON busy (n)")


async def read_all_of_it_often(admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE TABLE large AS SELECT generate_series(1, 10000) AS n")
    await admin.execute("DO $$ BEGIN FOR i IN 1..50 LOOP PERFORM count(*) FROM large; END LOOP; END $$")
    await admin.execute("SELECT pg_stat_force_next_flush()")


def setting(name: str, value: str) -> Break:
    async def alter(admin: asyncpg.Connection) -> None:
        database = await admin.fetchval("SELECT current_database()")
        await admin.execute(f"ALTER DATABASE {database} SET {name} = '{value}'")

    return alter


BROKEN = [
    (
        leave_an_invalid_index,
        "invalid_indexes",
        "public.one_each",
        "REINDEX INDEX CONCURRENTLY public.one_each;",
    ),
    (
        delete_what_unindexed_rows_refer_to,
        "foreign_keys",
        "public.children (parent) refers to parents: 2,000 rows",
        "CREATE INDEX CONCURRENTLY ON public.children (parent);",
    ),
    (
        index_twice,
        "superfluous_indexes",
        "public.busy_again, 8.0 kB: the same as public.busy_first",
        "DROP INDEX CONCURRENTLY public.busy_again;",
    ),
    (read_all_of_it_often, "scans", "public.large: 50 times 10,000 rows", "EXPLAIN (ANALYZE, BUFFERS)"),
    (
        setting("idle_session_timeout", "10s"),
        "timeouts",
        "idle_session_timeout is 10 s: the server ends sessions of the pool, which may idle for 15 s",
        "SET idle_session_timeout = 0; or POOL_HEALTH_CHECK_INTERVAL below 10",
    ),
    (
        setting("transaction_timeout", "9s"),
        "timeouts",
        "transaction_timeout is 9 s",
        "STATEMENT_TIMEOUT below 9",
    ),
    (setting("deadlock_timeout", "3s"), "timeouts", "deadlock_timeout is 3 s", "LOCK_TIMEOUT above 3"),
]


@pytest.mark.parametrize(("breaks", "check", "said", "advice"), BROKEN)
async def test_it_is_found(  # noqa: PLR0917 - a table
    postgres: PostgresServer, migrated_database: str, breaks: Break, check: str, said: str, advice: str
) -> None:
    before = (await report(migrated_database))[f"primary {check}"]
    assert before.level == "ok", before
    async with postgres.connect(urlsplit(migrated_database).path.strip("/")) as admin:
        await breaks(admin)
    found = await report(migrated_database)
    line = found[f"primary {check}"]
    assert line.level == "warn", line
    assert said in told(line)
    assert advice in line.advice
    assert {one.topic for one in found.values() if one.level in {"warn", "fail"}} == {line.topic}


async def test_foreign_key_that_nobody_needs_an_index_for(
    postgres: PostgresServer, migrated_database: str
) -> None:
    async with postgres.connect(urlsplit(migrated_database).path.strip("/")) as admin:
        await admin.execute("CREATE TABLE parents (id int PRIMARY KEY)")
        await admin.execute("CREATE TABLE children (parent int REFERENCES parents)")
    found = (await report(migrated_database))["primary foreign_keys"]
    assert (found.level, "public.children (parent)" in found.finding) == ("ok", True)


async def test_transaction_that_is_open_for_long(
    postgres: PostgresServer, migrated_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LONG_TRANSACTION", 0.0)
    async with postgres.connect() as forgotten:
        await forgotten.execute("BEGIN; SELECT 1")
        found = (await report(migrated_database))["primary transactions"]
        assert found.level == "warn"
        assert (
            f"process {forgotten.get_server_pid()}, tests-admin, role postgres, idle in transaction"
            in told(found)
        )
        assert f"SELECT pg_terminate_backend({forgotten.get_server_pid()});" in found.advice


async def test_lock_that_keeps_a_check_from_looking(postgres: PostgresServer, migrated_database: str) -> None:
    async with postgres.connect(urlsplit(migrated_database).path.strip("/")) as migrating:
        await migrating.execute("BEGIN; LOCK TABLE alembic_version")
        found = await report(migrated_database, lock_timeout=0.01)
    assert found["primary schema"].level == "unknown"
    assert "lock timeout" in found["primary schema"].finding
    assert found["primary foreign_keys"].level == "ok"


class TestUnprivilegedRole:
    @pytest.fixture
    async def url(self, postgres: PostgresServer, migrated_database: str) -> AsyncIterator[str]:
        """Of a role that may do nothing but log in."""
        async with postgres.connect() as admin:
            await admin.execute("CREATE ROLE doctors_svc LOGIN PASSWORD 'doctors-secret'")
            name = urlsplit(migrated_database).path
            yield f"postgresql://doctors_svc:doctors-secret@127.0.0.1:{postgres.port}{name}"
            await admin.execute("DROP OWNED BY doctors_svc; DROP ROLE doctors_svc")

    async def test_what_it_does_not_see_is_said_with_the_grant(
        self, url: str, postgres: PostgresServer
    ) -> None:
        async with postgres.connect():  # of another role
            found = await report(url)
        for check in ("rights", "transactions"):
            line = found[f"primary {check}"]
            assert (line.level, line.advice) == (
                "unknown",
                "as a superuser: GRANT pg_monitor TO doctors_svc;",
            )
        assert "permission denied" in found["primary transactions"].finding
        assert found["primary sessions"].level == "ok"  # who has them is seen by anybody
        assert "tests-admin, role postgres" in told(found["primary sessions"])

    async def test_what_the_service_could_not_do_without_is_wrong(self, url: str) -> None:
        found = (await report(url))["primary schema"]
        assert found.level == "fail"
        assert found.advice == "as its owner: GRANT SELECT ON alembic_version TO doctors_svc;"

    async def test_with_the_grants_all_is_well(
        self, url: str, postgres: PostgresServer, migrated_database: str
    ) -> None:
        async with postgres.connect(urlsplit(migrated_database).path.strip("/")) as admin:
            await admin.execute(
                "GRANT pg_monitor TO doctors_svc; GRANT SELECT ON alembic_version TO doctors_svc"
            )
            found = await report(url)
            await admin.execute("REVOKE SELECT ON alembic_version FROM doctors_svc")
        assert {line.level for line in found.values() if line.check != "statements"} == {"ok"}


class TestServerOfItsOwn:
    """One server for all of them: each breaks something else and mends it."""

    async def test_it_is_found(self, server_factory: ServerFactory) -> None:
        server = await server_factory(
            max_connections="10",
            max_prepared_transactions="2",
            max_wal_senders="2",
            shared_preload_libraries="pg_stat_statements",
        )
        async with server.connect() as admin:
            await self.full(server, admin)
            await self.prepared(server, admin)
            await self.slot(server, admin)
            await self.standby_that_is_not_there(server, admin)
            await self.most_expensive_statements(server, admin)

    async def full(self, server: PostgresServer, admin: asyncpg.Connection) -> None:
        """7 of 10 sessions are in use, and 3 are for superusers."""
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'app-secret'")
        url = f"postgresql://app:app-secret@127.0.0.1:{server.port}/postgres"
        named = {"application_name": "batch"}
        async with AsyncExitStack() as stack:
            for _ in range(6):  # and that of `admin`
                session = await asyncpg.connect(url, server_settings=named)
                stack.push_async_callback(session.close)
            of_superuser = (await report(server.dsn()))["primary sessions"]
            refused = (await report(url))["primary server"]
        assert of_superuser.level == "fail"
        assert "8 in use, 0 left" in of_superuser.finding
        assert "6  batch, role app" in told(of_superuser)
        assert "application_name LIKE 'batch%' AND state = 'idle'" in of_superuser.advice
        assert refused.level == "fail"
        assert "too many connections" in refused.finding
        assert "GROUP BY 1, 2" in refused.advice

    async def prepared(self, server: PostgresServer, admin: asyncpg.Connection) -> None:
        await admin.execute("BEGIN; CREATE TABLE half (n int); PREPARE TRANSACTION 'forgotten'")
        patience, sessions.LONG_TRANSACTION = sessions.LONG_TRANSACTION, 0.0
        found = (await report(server.dsn()))["primary prepared"]
        sessions.LONG_TRANSACTION = patience
        assert found.level == "warn"
        assert "'forgotten' of postgres in postgres" in told(found)
        assert "ROLLBACK PREPARED 'forgotten';" in found.advice
        await admin.execute("ROLLBACK PREPARED 'forgotten'")

    async def slot(self, server: PostgresServer, admin: asyncpg.Connection) -> None:
        assert (await report(server.dsn()))["primary slots"].level == "ok"
        await admin.execute("SELECT pg_create_physical_replication_slot('gone', true)")
        found = (await report(server.dsn()))["primary slots"]
        assert found.level == "warn"
        assert "gone: nobody reads it, keeps " in told(found)
        assert "SELECT pg_drop_replication_slot('gone');" in found.advice
        assert "max_slot_wal_keep_size = '50GB'" in found.advice
        await admin.execute("SELECT pg_drop_replication_slot('gone')")

    async def standby_that_is_not_there(self, server: PostgresServer, admin: asyncpg.Connection) -> None:
        await server.set("synchronous_standby_names", "'nobody'")
        found = (await report(server.dsn()))["primary synchronous"]
        assert found.level == "fail"
        assert "every COMMIT waits for ever" in found.finding
        assert "ALTER SYSTEM SET synchronous_standby_names = '';" in found.advice
        await server.set("synchronous_standby_names", "''")

    async def most_expensive_statements(self, server: PostgresServer, admin: asyncpg.Connection) -> None:
        found = (await report(server.dsn()))["primary statements"]
        assert found.level == "unknown"
        assert found.advice == "as a superuser: in postgres: CREATE EXTENSION pg_stat_statements;"
        await admin.execute("CREATE EXTENSION pg_stat_statements")
        await admin.execute("ALTER ROLE app PASSWORD 'canary-hush'")
        await admin.execute("CREATE PROCEDURE learn(text) BEGIN ATOMIC SELECT pg_sleep(0.1); END")
        await admin.execute("CALL learn('canary-hush')")
        await admin.execute("SELECT pg_sleep(0.2), 'canary-hush'")
        assert await admin.fetchval("SELECT count(*) FROM pg_class WHERE relname = 'deep_thought'") == 0
        line = (await report(server.dsn()))["primary statements"]
        assert line.level == "ok"
        assert "SELECT pg_sleep($1), $2" in line.lines[0]
        assert "hush" not in told(line)
        assert any(one.endswith(": CALL") for one in line.lines)
        assert "pg_stat_statements" not in "".join(line.lines[1:])  # the doctor's own are left out
        as_app = f"postgresql://app:canary-hush@127.0.0.1:{server.port}/postgres"
        hidden = (await report(as_app))["primary statements"]
        assert (hidden.level, hidden.advice) == ("unknown", "as a superuser: GRANT pg_monitor TO app;")


class TestReplication:
    async def test_replay_that_is_paused(self, replicated: Replication) -> None:
        primary, standby = replicated.primary.dsn(), replicated.standby.dsn()
        well = await report(primary, database_replica_url=standby)
        assert well["replica lag"].level == "ok"
        await replicated.replay(paused=True)
        async with replicated.primary.connect() as admin:
            await admin.execute("INSERT INTO things (n) VALUES (7)")
        found = (await report(primary, database_replica_url=standby))["replica lag"]
        assert found.level == "warn"
        assert "replay is paused" in found.finding
        assert "SELECT pg_wal_replay_resume();" in found.advice

    async def test_standby_in_the_place_of_the_primary(self, replicated: Replication) -> None:
        found = (await report(replicated.standby.dsn()))["primary server"]
        assert found.level == "fail"
        assert "standby" in found.finding
        assert "SELECT pg_promote()" in found.advice

    async def test_each_host_of_the_primary_s_url(self, replicated: Replication) -> None:
        login, _, address = replicated.primary.dsn().rpartition("@")
        at = f"127.0.0.1:{replicated.standby.port}"
        both = (await report(f"{login}@{at},{address}"))["primary hosts"]
        assert both.level == "ok"
        assert both.finding.startswith(
            "2 in DATABASE_URL: 1 read-write, 1 standby or read-only, 0 not reached"
        )
        assert any(line.startswith(f"{at}: PostgreSQL 18") and "standby" in line for line in both.lines)
        found = await report(f"{login}@127.0.0.1:1,{address}")
        assert found["primary hosts"].level == "warn"
        assert "127.0.0.1:1: unreachable" in told(found["primary hosts"])
        assert "pg_isready -h 127.0.0.1 -p 1" in found["primary hosts"].advice
        assert found["primary server"].level == "ok"

    async def test_two_hosts_that_take_writes(
        self, replicated: Replication, postgres: PostgresServer
    ) -> None:
        async with postgres.connect() as admin:
            await admin.execute(f"ALTER ROLE postgres PASSWORD '{replicated.primary.password}'")
            login, _, address = replicated.primary.dsn().rpartition("@")
            found = (await report(f"{login}@127.0.0.1:{postgres.port},{address}"))["primary hosts"]
            await admin.execute(f"ALTER ROLE postgres PASSWORD '{postgres.password}'")
        assert (found.level, "stop the others" in found.advice) == ("fail", True)


async def test_keepalive_that_the_server_was_not_given(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its system knows no such setting."""
    monkeypatch.setattr(reaching, "prepare_session", lambda _: None)
    found = (await report(database_url, pool_keepalive=7))["primary keepalive"]
    assert found.level == "warn"
    assert "POOL_KEEPALIVE=7, but the server probes after " in found.finding
    assert "ALTER SYSTEM SET tcp_keepalives_idle = 7;" in found.advice


async def test_others_that_leave_too_little_room(postgres: PostgresServer, migrated_database: str) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(52):
            await stack.enter_async_context(postgres.connect())
        found = (await report(migrated_database, pool_instances=7, pool_max_size=21))["primary sizing"]
    assert found.level == "warn"
    assert "others have 5" in found.finding
    assert "POOL_MAX_SIZE=13" in found.advice


async def test_processes_that_count_each_other_share_what_others_leave(
    postgres: PostgresServer, migrated_database: str
) -> None:
    values = {"pool_instances": "auto", "pool_max_size": 500, "service_name": "counted"}
    async with AsyncExitStack() as stack:
        for name in ("counted#1a2b3c", "counted#1a2b3c seat 17", "counted#1a2b3c: a tag"):
            await (await stack.enter_async_context(postgres.connect())).execute(
                "SELECT set_config('application_name', $1, false)", name
            )
        alone = await report(migrated_database, **values)
        for _ in range(60):
            await stack.enter_async_context(postgres.connect())
        beside = (await report(migrated_database, **values))["primary sizing"]
    assert alone["primary sizing"].level == "ok"
    assert "(147 sessions" in alone["primary sizing"].finding
    assert any("  counted, role" in line for line in alone["primary sessions"].lines)
    assert not any("#" in line for line in alone["primary sessions"].lines)
    assert beside.level == "warn"
    assert "others have 6" in beside.finding
    assert "headrooms should add up to less than 1" in beside.advice
