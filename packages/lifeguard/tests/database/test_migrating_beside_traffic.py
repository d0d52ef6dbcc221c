"""A migration on tables that are in use: it holds nobody up for long, and it comes through in the end."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from lifeguard.database import MigrationError, migrations
from lifeguard.database.migrating_session import TABLE_WAIT
from lifeguard.database.migrations import upgrade
from lifeguard.testing.processes import environment
from lifeguard.testing.revisions import Revisions
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, settings_for
from packages.lifeguard.tests.sample.settings import Settings

ALTER = "ALTER TABLE things ADD COLUMN n int"
INDEX = "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_id ON things (id)"


@pytest.fixture
async def settings(database_url: str, add_revision: Revisions) -> Settings:
    """Of a database with a table `things`."""
    add_revision("one", "CREATE TABLE things (id int)")
    settings = settings_for(database_url)
    await upgrade(settings)
    return settings


@asynccontextmanager
async def in_use(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that has written to `things` and goes on until the block ends."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "nightly"})
    try:
        await connection.execute("BEGIN; LOCK TABLE things IN ROW EXCLUSIVE MODE")
        yield connection
    finally:
        await connection.close()


def blocked(log: Log) -> list[dict[str, Any]]:
    return [dict(entry) for entry in log if entry["event"] == "migration_blocked"]


async def is_valid(url: str, index: str) -> bool | None:
    connection = await asyncpg.connect(url)
    try:
        valid: bool | None = await connection.fetchval(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", index
        )
    finally:
        await connection.close()
    return valid


async def test_nobody_waits_longer_than_the_migrations_short_wait(
    settings: Settings, database_url: str, add_revision: Revisions, log: Log
) -> None:
    add_revision("two", ALTER)
    migrated = asyncio.Event()
    waits: list[float] = []

    async def traffic() -> None:
        connection = await asyncpg.connect(database_url)
        while not migrated.is_set():
            asked_at = time.monotonic()
            await connection.execute("SELECT FROM things")
            waits.append(time.monotonic() - asked_at)
        await connection.close()

    async with in_use(database_url) as holder:
        serving = [asyncio.create_task(traffic()) for _ in range(2)]
        migrating = asyncio.create_task(upgrade(settings))
        for tries in (1, 2, 3):
            await eventually(lambda tries=tries: len(blocked(log)) >= tries)  # type: ignore[misc]  # of the loop
            served = len(waits)
            # Who came behind the migration is served though the table is as much in use as before.
            await eventually(lambda served=served: len(waits) > served + len(serving))  # type: ignore[misc]
        assert not migrating.done()
        await holder.execute("COMMIT")
        assert (await migrating).current == "two"
        migrated.set()
        await asyncio.gather(*serving)
    assert max(waits) > TABLE_WAIT / 2  # somebody did meet the migration


@pytest.mark.parametrize("autocommit", [False, True])
async def test_each_wait_is_one_event_that_names_who_is_in_the_way(
    settings: Settings, database_url: str, add_revision: Revisions, log: Log, autocommit: bool
) -> None:
    add_revision("two", ALTER, autocommit=autocommit)
    async with in_use(database_url) as holder:
        migrating = asyncio.create_task(upgrade(settings))
        who = await eventually(lambda: [who for event in blocked(log) for who in event["blocked_by"]])
    assert (await migrating).current == "two"
    for event in blocked(log):
        assert event["statement"] == ALTER
        assert 0 < event["retry_in"] <= migrations._LONGEST_PAUSE
    known = r"nightly, user postgres, idle in transaction, transaction of .* s"
    assert re.fullmatch(rf"process {holder.get_server_pid()} \({known}\)", who[0])


async def test_a_table_that_stays_in_use_ends_the_migration_readably(
    settings: Settings, database_url: str, add_revision: Revisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_TABLE_PATIENCE", 1.0)
    add_revision("two", ALTER)
    async with in_use(database_url) as holder:
        with pytest.raises(MigrationError) as caught:
            await upgrade(settings)
        pid = holder.get_server_pid()
    assert re.fullmatch(
        rf"a table was in use at each of \d tries in 1 s, at last by process {pid} \(nightly.*\);"
        rf" not applied: {ALTER}",
        str(caught.value),
    )
    assert (await upgrade(settings)).current == "two"


async def test_each_try_begins_anew(
    settings: Settings, database_url: str, add_revision: Revisions, log: Log
) -> None:
    add_revision("two", "INSERT INTO things VALUES (2)")
    add_revision("three", f"DO $$ BEGIN INSERT INTO things VALUES (3); {ALTER}; END $$")
    async with in_use(database_url):
        migrating = asyncio.create_task(upgrade(settings))
        await eventually(lambda: blocked(log))
    await migrating
    connection = await asyncpg.connect(database_url)
    assert [row["id"] for row in await connection.fetch("SELECT id FROM things ORDER BY id")] == [2, 3]
    await connection.close()


async def test_of_two_at_once_one_meets_the_table_and_both_succeed(
    settings: Settings, database_url: str, add_revision: Revisions, log: Log
) -> None:
    add_revision("two", ALTER)
    async with in_use(database_url):
        both = [asyncio.create_task(upgrade(settings)) for _ in range(2)]
        await eventually(lambda: blocked(log))
    assert {(await one).current for one in both} == {"two"}


class TestConcurrently:
    async def test_waits_without_a_limit_and_says_for_whom(
        self, settings: Settings, database_url: str, add_revision: Revisions, log: Log
    ) -> None:
        add_revision("two", INDEX, autocommit=True)
        add_revision("three", "CREATE TABLE waits AS SELECT current_setting('lock_timeout') AS value")
        async with in_use(database_url):
            migrating = asyncio.create_task(upgrade(settings))
            await eventually(lambda: blocked(log))  # which is told after five times the short wait
            assert not migrating.done()
        assert (await migrating).current == "three"
        assert len(blocked(log)) == 1
        assert "nightly" in blocked(log)[0]["blocked_by"][0]
        assert await is_valid(database_url, "things_id")
        connection = await asyncpg.connect(database_url)
        assert await connection.fetchval("SELECT value FROM waits") == "200ms"
        await connection.close()

    @pytest.mark.slow
    async def test_an_invalid_index_of_a_killed_migration_is_named_and_rebuilt(
        self, settings: Settings, postgres: PostgresServer, add_revision: Revisions, log: Log
    ) -> None:
        add_revision("two", INDEX, autocommit=True)
        assert settings.database_url
        database_url = settings.database_url.get_secret_value()
        script = "import asyncio, sys; from pathlib import Path; from lifeguard.database import migrations;"
        script += " from packages.lifeguard.tests.sample.settings import Settings;"
        script += " Settings.migrations = Path(sys.argv[1]);"
        script += " asyncio.run(migrations.upgrade(Settings.load()))"
        async with in_use(database_url):
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(Settings.migrations)],
                env=environment(DATABASE_URL=database_url),
                stdout=subprocess.DEVNULL,
            )
            try:
                await eventually(lambda: half_built(database_url))
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
            # The server notices that its client is gone.
            await eventually(lambda: nobody_migrates(postgres, database_url))
        assert await is_valid(database_url, "things_id") is False
        assert (await upgrade(settings)).current == "two"
        assert await is_valid(database_url, "things_id")
        found = [entry for entry in log if entry["event"] == "invalid_index"]
        assert [entry["index"] for entry in found] == ["public.things_id"]

    @pytest.mark.parametrize(
        ("statement", "index"),
        [
            ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS things_id ON things (id)", "things_id"),
            ("create index concurrently things_id on public.things (id)", "things_id"),
            ("-- why\nCREATE INDEX /* how */ CONCURRENTLY THINGS_ID\nON things (id)", "things_id"),
            ('CREATE INDEX CONCURRENTLY IF NOT EXISTS "Of ""Id""" ON ONLY_IDS (id)', '"Of ""Id"""'),
        ],
    )
    async def test_an_invalid_index_is_found_however_it_is_written(
        self, settings: Settings, database_url: str, add_revision: Revisions, statement: str, index: str
    ) -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("CREATE TABLE only_ids AS SELECT 1 AS id FROM generate_series(1, 2)")
        await connection.execute("INSERT INTO things SELECT 1 FROM generate_series(1, 2)")
        table = "only_ids" if "ONLY" in statement else "things"
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} (id)")
        await connection.execute("DELETE FROM things")
        await connection.close()
        assert await is_valid(database_url, index) is False
        add_revision("two", statement, autocommit=True)
        await upgrade(settings)
        assert await is_valid(database_url, index)

    async def test_an_invalid_index_that_no_revision_builds_is_named(
        self, settings: Settings, database_url: str, add_revision: Revisions, log: Log
    ) -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("INSERT INTO things VALUES (1), (1)")
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY forgotten ON things (id)")
        await connection.close()
        add_revision("two", INDEX, autocommit=True)
        await upgrade(settings)
        found = [entry for entry in log if entry["event"] == "invalid_index"]
        assert [entry["index"] for entry in found] == ["public.forgotten"]
        assert "no revision" in found[0]["remedy"]

    async def test_within_a_transaction_it_is_refused_with_the_remedy(
        self, settings: Settings, add_revision: Revisions
    ) -> None:
        add_revision("two", INDEX)
        with pytest.raises(MigrationError, match=re.escape("op.get_context().autocommit_block()")):
            await upgrade(settings)


async def half_built(url: str) -> bool:
    return await is_valid(url, "things_id") is False


async def nobody_migrates(server: PostgresServer, url: str) -> bool:
    database = url.rpartition("/")[2].partition("?")[0]
    return not await server.backends(database, application_name="ledger:migrate")
