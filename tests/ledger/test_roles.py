"""The ledger in production: migrated by one role, served by another, which cannot rewrite what is booked."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from lifeguard.database.migrations import upgrade
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr

from app.settings import Settings
from tests.ledger.conftest import client_on, open_account
from tests.secured import SecuredServer, secured_server


@pytest.fixture(scope="module")
async def migrated(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredServer]:
    async with secured_server(cluster, tmp_path_factory.mktemp("secrets")) as server:
        await upgrade(Settings(database_url=SecretStr(server.dsn("migrator"))))
        yield server


@pytest.fixture
async def client(migrated: SecuredServer) -> AsyncIterator[httpx.AsyncClient]:
    async with client_on(migrated.dsn("app")) as client:
        yield client


async def test_app_needs_no_more_than_it_has(client: httpx.AsyncClient) -> None:
    ada, grace = await open_account(client, 1000), await open_account(client)
    transfer = {"from_account": ada, "to_account": grace, "amount": 300, "memo": "rent"}
    key = {"Idempotency-Key": "rent-1"}
    first = await client.post("/v1/transfers", json=transfer, headers=key)
    again = await client.post("/v1/transfers", json=transfer, headers=key)
    without_key = await client.post("/v1/transfers", json=transfer)
    assert [answer.status_code for answer in (first, again, without_key)] == [201, 201, 201]
    assert first.json() == again.json()
    assert (await client.get(f"/v1/accounts/{grace}")).json()["balance"] == 600
    assert len((await client.get(f"/v1/accounts/{ada}/entries")).json()["items"]) == 3
    assert (await client.get(f"/v1/transfers/{first.json()['id']}")).json() == first.json()
    assert len((await client.get("/v1/accounts")).json()["items"]) >= 2


async def test_app_knows_that_the_schema_is_current(client: httpx.AsyncClient) -> None:
    async def ready() -> bool:
        return '"status":"ready"' in (await client.get("/readyz")).text

    await eventually(ready)


async def test_app_has_these_rights_on_tables_and_no_others(migrated: SecuredServer) -> None:
    """In which column, where it is not all of them. tests/deploy/test_privileges.py has everything else."""
    async with migrated.connect("app") as app:
        rows = await app.fetch(
            """
            SELECT relname, privilege,
                   CASE WHEN has_table_privilege(class.oid, privilege) THEN '*' ELSE attname END
              FROM pg_class class JOIN pg_attribute ON attrelid = class.oid AND attnum > 0,
                   unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) privilege
             WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace = 'public'::regnamespace
               AND has_column_privilege(class.oid, attnum, privilege)
            UNION
            SELECT relname, privilege, '*' FROM pg_class class,
                   unnest('{DELETE,TRUNCATE,TRIGGER,MAINTAIN}'::text[]) privilege
             WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace = 'public'::regnamespace
               AND has_table_privilege(class.oid, privilege)
            """
        )
    tables = ("accounts", "transfers", "entries")
    assert {tuple(row) for row in rows} == {
        *((table, privilege, "*") for table in tables for privilege in ("SELECT", "INSERT")),
        ("accounts", "UPDATE", "balance"),
        ("alembic_version", "SELECT", "*"),
    }


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount = 1",
        "DELETE FROM transfers",
        "TRUNCATE transfers CASCADE",
        "UPDATE entries SET amount = 1",
        "DELETE FROM entries",
        "TRUNCATE entries",
        "UPDATE accounts SET owner = 'Mallory'",
        "UPDATE accounts SET is_funding = true",
        "DELETE FROM accounts",
        "ALTER TABLE accounts DROP CONSTRAINT accounts_balance_check",
        "ALTER TABLE entries DISABLE TRIGGER ALL",
        "DROP TABLE entries",
        "UPDATE alembic_version SET version_num = 'mine'",
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('mine')",
    ],
)
async def test_app_cannot(migrated: SecuredServer, statement: str) -> None:
    async with migrated.connect("app") as app:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute(statement)


async def test_one_role_for_everything_may_also_be_called_app(server_factory: ServerFactory) -> None:
    """It owns the tables, so that taking rights from it would stop its own migrations."""
    server = await server_factory()
    async with server.connect() as admin:
        await admin.execute("CREATE ROLE app LOGIN PASSWORD 'app'")
        await admin.execute("CREATE DATABASE own OWNER app")
    settings = Settings(database_url=SecretStr(f"postgresql://app:app@127.0.0.1:{server.port}/own"))
    await upgrade(settings)
    connection = await asyncpg.connect(f"postgresql://app:app@127.0.0.1:{server.port}/own")
    try:
        await connection.execute("UPDATE alembic_version SET version_num = version_num")
        await connection.execute("UPDATE transfers SET amount = 1")
    finally:
        await connection.close()
