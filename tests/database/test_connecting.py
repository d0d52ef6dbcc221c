"""What every connection of this service brings along."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from app.database import Database, DatabaseUnavailable
from app.database.connecting import connect_options, dsn, look_after_clients, milliseconds
from app.settings import SettingsError
from tests.conftest import ServerFactory
from tests.database.conftest import MakeDatabase, settings_for
from tests.servers import PostgresServer
from tests.waiting import eventually


async def setting(database: Database, name: str) -> str:
    async with database.connection() as connection:
        value: str = await connection.fetchval("SELECT current_setting($1)", name)
        return value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("application_name", "billing"),
        ("statement_timeout", "1500ms"),
        ("lock_timeout", "700ms"),
        ("idle_in_transaction_session_timeout", "9s"),
        ("client_connection_check_interval", "1s"),
    ],
)
async def test_the_first_statement_already_has_its_limits(
    make_database: MakeDatabase, name: str, value: str
) -> None:
    database = await make_database(
        service_name="billing",
        statement_timeout=1.5,
        lock_timeout=0.7,
        idle_in_transaction_timeout=9,
    )
    assert await setting(database, name) == value


async def test_a_reset_session_still_looks_after_its_client(make_database: MakeDatabase) -> None:
    database = await make_database(pool_max_size=1)
    async with database.connection() as connection:
        await connection.execute("SET search_path = pg_catalog")
    assert await setting(database, "client_connection_check_interval") == "1s"
    assert database.primary.stats().resets == 1


async def test_the_server_drops_what_a_vanished_client_had_it_do(
    make_database: MakeDatabase, postgres: PostgresServer
) -> None:
    database = await make_database(service_name="vanishing", command_timeout=60)

    async def ask() -> None:
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(30)")

    async def working() -> bool:
        sessions = await postgres.backends(application_name="vanishing")
        return any(session["state"] == "active" for session in sessions)

    async def gone() -> bool:
        return not await postgres.backends(application_name="vanishing")

    asked = asyncio.create_task(ask())
    await eventually(working)
    database.primary.terminate()
    await eventually(gone)
    with pytest.raises(DatabaseUnavailable):
        await asked


async def test_a_lock_that_stays_taken_is_given_up_by_the_server(make_database: MakeDatabase) -> None:
    database = await make_database(lock_timeout=0.1)
    async with database.transaction() as holder:
        await holder.execute("CREATE TABLE taken (id int)")
    async with database.transaction() as holder:
        await holder.execute("LOCK TABLE taken")
        async with database.connection() as other:
            with pytest.raises(asyncpg.LockNotAvailableError):
                await other.fetch("SELECT * FROM taken")


async def test_an_older_server_is_not_told_what_it_does_not_know() -> None:
    class OldServer:
        def get_server_version(self) -> tuple[int, int]:
            return (13, 22)

    await look_after_clients(OldServer())  # type: ignore[arg-type]  # executes nothing


async def test_a_platform_that_cannot_look_after_clients_is_no_error(
    database: Database,
) -> None:
    class NotOnThisPlatform:
        def get_server_version(self) -> tuple[int, int]:
            return (18, 0)

        async def execute(self, query: str) -> None:
            raise asyncpg.InvalidParameterValueError

    await look_after_clients(NotOnThisPlatform())  # type: ignore[arg-type]


async def test_a_rotated_password_is_read_at_the_next_connect(
    server_factory: ServerFactory, make_database: MakeDatabase, tmp_path: Path
) -> None:
    server = await server_factory()
    async with server.connect() as admin:
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'first'")
    secret = tmp_path / "password"
    secret.write_text("first\n")
    database = await make_database(
        f"postgresql://app@127.0.0.1:{server.port}/postgres", database_password_file=secret
    )
    assert await setting(database, "session_authorization") == "app"
    async with server.connect() as admin:
        await admin.execute("ALTER ROLE app PASSWORD 'second'")
    await server.kill_backends()
    await eventually(lambda: database.primary.stats().last_error)
    secret.write_text("second\n")
    await eventually(database.primary.get_size)
    assert await setting(database, "session_authorization") == "app"


@pytest.mark.parametrize(
    ("url", "role"),
    [
        ("postgresql://app@a/ledger", "read-write"),
        ("postgresql://app@a/ledger?target_session_attrs=any", None),
        ("postgresql://app@a/ledger?options=-c%20default_transaction_read_only%3Don", None),
        ("postgresql://app@a,b/ledger", "read-write"),
        ("postgresql:///ledger?host=a,b", "read-write"),
        ("postgresql://app@a,b/ledger?target_session_attrs=any", None),
    ],
)
def test_the_primary_is_wanted_writable_unless_the_url_says_otherwise(url: str, role: str | None) -> None:
    assert connect_options(settings_for(url)).get("target_session_attrs") == role


def test_of_several_replicas_a_standby_is_preferred() -> None:
    settings = settings_for("postgresql://a/x", database_replica_url="postgresql://b,c/x")
    assert connect_options(settings, "replica")["target_session_attrs"] == "prefer-standby"


def test_a_database_without_a_url_is_a_fault_of_the_settings() -> None:
    settings = settings_for("postgresql://a/x")
    with pytest.raises(SettingsError, match="DATABASE_REPLICA_URL"):
        dsn(settings, "replica")


@pytest.mark.parametrize(
    ("parameter", "line"),
    [
        (
            "connect_timeout=3",
            "DATABASE_URL: asyncpg does not know libpq's connect_timeout;"
            " POOL_CONNECT_TIMEOUT is there for that",
        ),
        (
            "sslmode=require&channel_binding=require",
            "DATABASE_URL: asyncpg does not know libpq's channel_binding; leave it out",
        ),
    ],
)
def test_what_only_libpq_can_do_is_a_fault_in_one_line(parameter: str, line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Database(settings_for(f"postgresql://app:s3cret@a/x?{parameter}"))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("parameter", "name", "value"),
    [
        ("search_path=pg_catalog", "search_path", "pg_catalog"),
        ("options=-c%20work_mem%3D5MB", "work_mem", "5MB"),
        ("application_name=mine", "application_name", "ledger"),
    ],
)
async def test_server_settings_in_the_url_are_set_unless_the_service_has_its_own(
    make_database: MakeDatabase, database_url: str, parameter: str, name: str, value: str
) -> None:
    database = await make_database(f"{database_url}?{parameter}")
    assert await setting(database, name) == value


def test_a_limit_never_becomes_none() -> None:
    assert milliseconds(0.0001) == 1
