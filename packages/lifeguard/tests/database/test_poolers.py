"""Through a pooler that refuses startup parameters, with the mode given and found out (POOL_PGBOUNCER)."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from lifeguard.database import MigrationError
from lifeguard.database.migrations import upgrade
from lifeguard.operations import doctor
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, settings_for
from packages.lifeguard.tests.inside import service
from packages.lifeguard.tests.inside import settings_for as service_settings
from packages.lifeguard.tests.pooler import Pooler

REMEDY = "POOL_PGBOUNCER=auto"
SHOWN = {
    "application_name": "billing",
    "statement_timeout": "1500ms",
    "lock_timeout": "700ms",
    "idle_in_transaction_session_timeout": "9s",
    "search_path": "pg_catalog, public",
}


@pytest.fixture
async def pooler(migrated_database: str) -> AsyncIterator[Pooler]:
    front = Pooler(migrated_database)
    async with front.serve():
        yield front


@pytest.mark.parametrize(("mode", "refused"), [("on", set()), ("auto", {"application_name"})])
async def test_every_statement_has_its_limits(
    make_database: MakeDatabase, pooler: Pooler, mode: str, refused: set[str]
) -> None:
    database = await make_database(
        f"{pooler.dsn}&search_path=pg_catalog,%20public",
        pool_pgbouncer=mode,
        pool_max_size=1,
        service_name="billing",
        statement_timeout=1.5,
        lock_timeout=0.7,
        idle_in_transaction_timeout=9,
    )
    shown = "SELECT name, current_setting(name) FROM unnest($1::text[]) name"
    async with database.connection() as connection:
        assert {row[0]: row[1] for row in await connection.fetch(shown, list(SHOWN))} == SHOWN
        raw: Any = connection  # asyncpg's methods are there, and are not of its type
        async with raw.transaction():
            assert {row[0]: row[1] for row in await connection.fetch(shown, list(SHOWN))} == SHOWN
    async with database.read() as reading:
        assert {row[0]: row[1] for row in await reading.fetch(shown, list(SHOWN))} == SHOWN
    async with database.transaction() as transaction:
        assert {row[0]: row[1] for row in await transaction.fetch(shown, list(SHOWN))} == SHOWN
    assert pooler.refused >= refused  # those that come first are not all told
    assert database.primary.stats().resets == 0


async def test_migrations_and_the_doctor_pass_as_well(pooler: Pooler) -> None:
    """Where nothing is to be migrated."""
    settings = settings_for(pooler.dsn, pool_pgbouncer="on")
    assert not (await upgrade(settings)).is_old
    findings = {finding.topic: finding async for finding in doctor.examine(settings)}
    assert "fail" not in {finding.level for finding in findings.values()}
    assert "keeps no prepared statements" in findings["primary pooler"].finding
    assert "ALTER ROLE" in findings["primary pooler"].advice


async def test_without_it_the_event_and_the_readiness_and_the_doctor_name_it(
    pooler: Pooler, capsys: pytest.CaptureFixture[str]
) -> None:
    off = {"pool_pgbouncer": "off"}
    async with service(service_settings(pooler.dsn, **off)) as running:

        async def told() -> bool:
            return REMEDY in (await running.client.get("/readyz")).text

        await eventually(told)
    said = [line for line in capsys.readouterr().out.splitlines() if "open_blocked" in line]
    assert REMEDY in said[0]
    findings = [finding async for finding in doctor.examine(settings_for(pooler.dsn, **off))]
    assert any(finding.level == "fail" and REMEDY in finding.finding for finding in findings)
    with pytest.raises(MigrationError, match=REMEDY):
        await upgrade(settings_for(pooler.dsn, **off))
