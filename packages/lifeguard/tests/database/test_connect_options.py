"""What every connection of this service brings along."""

import asyncio
from dataclasses import fields, replace
from pathlib import Path

import asyncpg
import pytest
from lifeguard.database import Database, DatabaseUnavailable
from lifeguard.database.connect_options import (
    connect_options,
    dsn,
    each_replica,
    looking_after_client,
    milliseconds,
    pool_config,
    prepare_session,
)
from lifeguard.pool import PoolConfig
from lifeguard.settings import SettingsError
from lifeguard.settings.parameters import SERVER_SETTINGS
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, settings_for


async def setting(database: Database, name: str) -> str:
    async with database.connection() as connection:
        value: str = await connection.fetchval("SELECT current_setting($1)", name)
        return value


def test_every_setting_of_the_pool_reaches_it_by_its_name() -> None:
    given = {
        "min_size": 3,
        "max_size": 7,
        "acquire_timeout": 1.5,
        "max_waiting": 11,
        "queue_target": 0.5,
        "connect_timeout": 2.5,
        "keepalive": 13,
        "idle_timeout": 17.0,
        "max_lifetime": 190.0,
        "health_check_interval": 23.0,
        "validate_after": 0.25,
        "leak_threshold": 29.0,
        "pgbouncer": "on",
        "outage_patience": 1.25,
        "reset": "always",
    }
    settings = settings_for("postgresql://u@h/db", **{f"pool_{name}": given[name] for name in given})
    config = pool_config(settings)
    assert {name: getattr(config, name) for name in given} == given
    assert config.name == "primary"
    replicas = pool_config(settings, "replica")
    assert replicas == replace(config, name="replica", outage_patience=0, init=replicas.init)
    assert {setting.name for setting in fields(PoolConfig)} - given.keys() == {
        "name",
        "init_size",
        "init",
        "setup",
    }


def test_a_maximum_that_the_server_decides_begins_as_the_minimum() -> None:
    settings = settings_for("postgresql://u@h/db", pool_min_size=0, pool_max_size="auto")
    assert pool_config(settings).max_size == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("application_name", "billing"),
        ("statement_timeout", "1500ms"),
        ("lock_timeout", "700ms"),
        ("idle_in_transaction_session_timeout", "9s"),
        ("client_connection_check_interval", "1s"),
        ("tcp_keepalives_idle", "7"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "15000"),
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
        pool_keepalive=7,
    )
    assert await setting(database, name) == value


async def test_a_reset_session_still_looks_after_its_client(make_database: MakeDatabase) -> None:
    database = await make_database(pool_max_size=1)
    async with database.connection() as connection:
        await connection.execute("SET search_path = pg_catalog")
    assert await setting(database, "client_connection_check_interval") == "1s"
    assert await setting(database, "tcp_keepalives_idle") == "10"
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


@pytest.mark.parametrize(
    ("server", "unknown"), [(11, "tcp_user_timeout"), (13, "client_connection_check_interval")]
)
def test_an_older_server_is_not_told_what_it_does_not_know(server: int, unknown: str) -> None:
    assert unknown not in looking_after_client(server, 10)
    assert unknown in looking_after_client(18, 10)


@pytest.mark.parametrize("broken", ["client_connection_check_interval", "tcp_keepalives_idle"])
async def test_what_a_server_cannot_do_costs_no_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A platform without the one, something that only resembles PostgreSQL without the other."""
    statements = looking_after_client(18, 10).replace(broken, "no_such_setting")
    monkeypatch.setattr("lifeguard.database.connect_options.looking_after_client", lambda *_: statements)
    connection = await asyncpg.connect(database_url)
    try:
        await prepare_session(settings_for(database_url))(connection)
        assert not connection.is_in_transaction()
        kept = "10" if broken != "tcp_keepalives_idle" else "0"
        assert (await connection.fetchval("SHOW tcp_keepalives_idle")) in {kept, "7200"}
    finally:
        await connection.close()


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


def test_each_host_of_a_replica_is_a_replica_and_any_server_will_do() -> None:
    settings = settings_for(
        "postgresql://a/x", database_replica_url="postgresql://b,c:1/x?sslmode=disable, postgresql://d/x"
    )
    each = each_replica(settings)
    assert [dsn(one, "replica") for one in each] == [
        "postgresql://b/x?sslmode=disable",
        "postgresql://c:1/x?sslmode=disable",
        "postgresql://d/x",
    ]
    assert not any("target_session_attrs" in connect_options(one, "replica") for one in each)


def test_a_database_without_a_url_is_a_fault_of_the_settings() -> None:
    settings = settings_for("postgresql://a/x")
    with pytest.raises(SettingsError, match="DATABASE_REPLICA_URL"):
        dsn(settings, "replica")


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


async def test_the_settings_that_a_url_may_have_are_those_of_a_session(database: Database) -> None:
    async with database.connection() as connection:
        names = await connection.fetch(
            "SELECT lower(name) FROM pg_settings"
            " WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend')"
        )
    assert {row[0] for row in names} >= SERVER_SETTINGS - {"options"}
