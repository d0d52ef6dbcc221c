"""What the doctor finds on servers in different states."""

import pytest
from lifeguard.database import MigrationError
from lifeguard.database.schema import SchemaState
from lifeguard.operations import doctor
from lifeguard.operations.doctor import Finding
from lifeguard.testing.servers import PostgresServer, unused_port
from pydantic import SecretStr

from packages.lifeguard.tests.sample.settings import Settings


async def findings(database_url: str, **settings: object) -> dict[str, Finding]:
    chosen = Settings.model_validate({"database_url": SecretStr(database_url), **settings})
    return {finding.topic: finding async for finding in doctor.examine(chosen)}


async def test_all_is_well(migrated_database: str) -> None:
    found = await findings(migrated_database)
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert "PostgreSQL 18" in found["primary"].text
    assert "read-write" in found["primary"].text
    assert found["sizing"].text.startswith("1 x 20 = 20 of 197 sessions")


@pytest.mark.parametrize(
    ("ops_port", "said"), [(8001, "on port 8001 of 127.0.0.1 (OPS_PORT)"), (None, "OPS_PORT is not set")]
)
async def test_says_where_operators_ask(migrated_database: str, ops_port: int | None, said: str) -> None:
    assert said in (await findings(migrated_database, ops_port=ops_port))["probes, metrics"].text


@pytest.mark.parametrize(
    ("state", "app_env", "verdict", "said"),
    [
        (SchemaState("0001", "0001", known=True), "development", "ok", "0001"),
        (SchemaState("0001", "0002", known=True), "production", "FAIL", "python -m app migrate"),
        (
            SchemaState("0009", "0001", known=False),
            "production",
            "ok",
            "a newer version has migrated already",
        ),
        (SchemaState("0009", "0001", known=False), "development", "FAIL", "another checkout"),
    ],
)
async def test_schema(  # noqa: PLR0917 - a table
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    state: SchemaState,
    app_env: str,
    verdict: str,
    said: str,
) -> None:
    async def reported(*_: object) -> SchemaState:
        return state

    monkeypatch.setattr(doctor, "schema_state", reported)
    found = await findings(database_url, app_env=app_env)
    assert found["schema"].verdict == verdict
    assert said in found["schema"].text


async def test_revisions_that_contradict_each_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confused(*_: object) -> SchemaState:
        raise MigrationError("two revisions claim to be the newest")

    monkeypatch.setattr(doctor, "schema_state", confused)
    found = await findings(database_url)
    assert found["schema"] == Finding("schema", "FAIL", "two revisions claim to be the newest")


@pytest.mark.parametrize(("instances", "verdict"), [(8, "warn"), (10, "FAIL")])
async def test_pools_too_large_for_the_server(migrated_database: str, instances: int, verdict: str) -> None:
    found = await findings(migrated_database, pool_instances=instances)
    assert found["sizing"].verdict == verdict


async def test_primary_that_takes_no_writes(postgres: PostgresServer, migrated_database: str) -> None:
    name = migrated_database.rpartition("/")[2]
    async with postgres.connect() as admin:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    found = await findings(migrated_database)
    assert found["primary"].verdict == "FAIL"
    assert "read-only" in found["primary"].text
    assert "no writable server" in found["primary"].text
    assert found["schema"].verdict == "ok"  # it is looked at all the same


async def test_replica(migrated_database: str) -> None:
    found = await findings(migrated_database, database_replica_url=SecretStr(migrated_database))
    assert found["replica"].verdict == "ok"
    assert found["replica latency"].verdict == "ok"


async def test_of_several_replicas_each_is_looked_at(migrated_database: str) -> None:
    gone = f"postgresql://somebody@127.0.0.1:{unused_port()}/x"
    found = await findings(migrated_database, database_replica_url=SecretStr(f"{migrated_database} {gone}"))
    assert [found[topic].verdict for topic in ("replica-1", "replica-1 latency", "replica-2")] == [
        "ok",
        "ok",
        "warn",
    ]
    assert "its reads go to other replicas" in found["replica-2"].text


async def test_server_that_is_not_there() -> None:
    url = f"postgresql://somebody:topsecret@127.0.0.1:{unused_port()}/x"
    found = await findings(url)
    assert found["primary"].verdict == "FAIL"
    assert "somebody@127.0.0.1" in found["primary"].text
    assert "topsecret" not in found["primary"].text
    assert "unreachable: ConnectionRefusedError" in found["primary"].text


async def test_settings_that_may_be_a_mistake(migrated_database: str) -> None:
    url = migrated_database.replace("127.0.0.1", "db.invalid")
    found = await findings(url, app_env="production", pool_connect_timeout=1)
    assert found["settings"].verdict == "warn"
    assert "sslmode is not set" in found["settings"].text


async def test_clock_that_is_far_off(migrated_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeguard.operations.doctor.time.time", lambda: 0.0)
    found = await findings(migrated_database)
    assert found["primary clock"].verdict == "warn"
    assert found["primary clock"].text.endswith("ms ahead of this machine's")
