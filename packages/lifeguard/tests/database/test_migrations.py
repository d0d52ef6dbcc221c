"""The schema is brought up to date once, whoever starts first, and nobody is in anybody's way."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from alembic.script import ScriptDirectory
from lifeguard.database import Database, MigrationError, migrations, schema
from lifeguard.database.migrations import upgrade
from lifeguard.database.schema import SchemaState, current_revision, head_revision
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.revisions import REVISION, Revisions
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, settings_for
from packages.lifeguard.tests.sample.settings import Settings


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(database_url)


async def fetchval(url: str, query: str, *args: object) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query, *args)
    finally:
        await connection.close()


async def test_ten_that_start_at_once_migrate_once(
    settings: Settings, database_url: str, add_revision: Revisions
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    add_revision("two", "INSERT INTO things SELECT 1 FROM pg_sleep(0.1)")
    states = await asyncio.gather(*(upgrade(settings) for _ in range(10)))
    assert set(states) == {SchemaState("two", "two", known=True)}
    assert await fetchval(database_url, "SELECT count(*) FROM things") == 1


async def test_a_current_schema_takes_no_lock(
    settings: Settings, database_url: str, add_revision: Revisions
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    await upgrade(settings)
    holder = await asyncpg.connect(database_url)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", migrations._LOCK)
        async with asyncio.timeout(5):
            await upgrade(settings)
    finally:
        await holder.close()


async def test_who_waits_for_the_lock_holds_no_snapshot(
    settings: Settings, database_url: str, postgres: PostgresServer, add_revision: Revisions
) -> None:
    """Else a CREATE INDEX CONCURRENTLY of the one who migrates would wait for the waiting one."""
    add_revision("one", "CREATE TABLE things (id int)")
    holder = await asyncpg.connect(database_url)
    await holder.execute("SELECT pg_advisory_lock($1)", migrations._LOCK)
    waiting = asyncio.create_task(upgrade(settings))

    async def asked_and_idle() -> bool:
        sessions = await postgres.backends(application_name="ledger:migrate")
        return any("advisory" in s["query"] and s["state"] == "idle" for s in sessions)

    try:
        await eventually(asked_and_idle)
        sessions = await postgres.backends(application_name="ledger:migrate")
        assert {session["backend_xmin"] for session in sessions} == {None}
        assert not waiting.done()
    finally:
        await holder.close()
    assert (await waiting).current == "one"


async def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(
    settings: Settings, database_url: str, add_revision: Revisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    monkeypatch.setattr(migrations, "_LOCK_PATIENCE", 0.1)
    holder = await asyncpg.connect(database_url)
    try:
        await holder.execute("SELECT pg_advisory_lock($1)", migrations._LOCK)
        with pytest.raises(MigrationError, match="another process"):
            await upgrade(settings)
    finally:
        await holder.close()


async def test_no_lock_outlives_the_migration(
    settings: Settings, postgres: PostgresServer, add_revision: Revisions
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    await upgrade(settings)

    async def nobody_migrates() -> bool:
        return not await postgres.backends(application_name="ledger:migrate")

    await eventually(nobody_migrates)  # the server ends a session after its client has


async def test_a_service_without_revisions_is_always_current(
    settings: Settings, database_url: str, add_revision: Revisions
) -> None:
    assert head_revision(Settings.migrations) is None
    assert not (await upgrade(settings)).is_old
    assert await fetchval(database_url, "SELECT to_regclass('alembic_version')") is None


async def test_a_schema_that_this_code_does_not_know_is_never_called_ready(
    settings: Settings, database_url: str, add_revision: Revisions, log: Log
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    assert (await upgrade(settings)).standing == "current"
    assert events(log) == ["migration_starts", "schema_ready"]
    await fetchval(database_url, "UPDATE alembic_version SET version_num = 'newer' RETURNING version_num")
    log.clear()
    assert (await upgrade(settings)).standing == "ahead"
    assert events(log) == ["schema_ahead"]


def events(log: Log) -> list[str]:
    return [entry["event"] for entry in log]


async def test_an_old_schema_is_known_as_such(
    settings: Settings, database: Database, add_revision: Revisions
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    async with database.read() as connection:
        before = await schema.schema_state(connection, Settings.migrations)
        await upgrade(settings)
        after = await schema.schema_state(connection, Settings.migrations)
        add_revision("two", "CREATE TABLE more_things (id int)")
        outgrown = await schema.schema_state(connection, Settings.migrations)
    assert [before.is_old, after.is_old, outgrown.is_old] == [True, False, True]
    assert str(before) == "the schema is not migrated yet, this version needs one"
    assert str(outgrown) == "the schema is at revision one, this version needs two"


@pytest.mark.parametrize(
    ("current", "head", "known", "said"),
    [
        ("0002", None, False, "is at revision 0002, which this version does not have"),
        ("0002", "other", False, "is at revision 0002, which this version does not have"),
        (None, None, True, "is not migrated yet, this version has no revisions"),
        ("0001", "0002", True, "is at revision 0001, this version needs 0002"),
    ],
)
def test_a_schema_is_described_in_words(
    current: str | None, head: str | None, known: bool, said: str
) -> None:
    assert str(schema.SchemaState(current, head, known)) == f"the schema {said}"


async def test_a_newer_schema_serves_the_previous_version(
    settings: Settings, database: Database, database_url: str, add_revision: Revisions
) -> None:
    """In a rollout the new version migrates while the previous one serves."""
    add_revision("one", "CREATE TABLE things (id int)")
    await upgrade(settings)
    await fetchval(database_url, "UPDATE alembic_version SET version_num = 'of the future'")
    async with database.read() as connection:
        assert not (await schema.schema_state(connection, Settings.migrations)).is_old
    assert (await upgrade(settings)).current == "of the future"


async def test_each_revision_is_kept_although_the_next_one_fails(
    settings: Settings, database: Database, add_revision: Revisions
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    add_revision("two", "CREATE TABLE things (id int)")
    with pytest.raises(MigrationError, match='DuplicateTableError: relation "things" already exists'):
        await upgrade(settings)
    async with database.read() as connection:
        assert await current_revision(connection) == "one"


async def test_two_newest_revisions_are_a_mistake(add_revision: Revisions) -> None:
    add_revision("one", "SELECT 1")
    code = REVISION.format(revision="other", down=None, body="pass")
    (Settings.migrations / "versions" / "other.py").write_text(code)
    schema.known_revisions.cache_clear()
    with pytest.raises(MigrationError, match="one, other"):
        head_revision(Settings.migrations)


async def test_revisions_are_read_as_alembic_reads_them(add_revision: Revisions) -> None:
    add_revision("one", "SELECT 1")
    merged = REVISION.format(revision="both", down=("left", "right"), body="pass")
    annotated = "revision: str = 'left'\ndown_revision: str | None = 'one'\n"
    for name, code in {
        "left": annotated,
        "right": REVISION.format(revision="right", down="one", body="pass"),
        "both": merged,
    }.items():
        (Settings.migrations / "versions" / f"{name}.py").write_text(code)
    scripts = ScriptDirectory(str(Settings.migrations))
    assert head_revision(Settings.migrations) == scripts.get_current_head() == "both"
    assert schema.known_revisions(Settings.migrations).all == {
        script.revision for script in scripts.walk_revisions()
    }


async def test_a_revision_whose_name_cannot_be_read_is_a_mistake(add_revision: Revisions) -> None:
    add_revision("one", "SELECT 1")
    (Settings.migrations / "versions" / "two.py").write_text("revision = str(2)\ndown_revision = 'one'\n")
    schema.known_revisions.cache_clear()
    with pytest.raises(MigrationError, match=r"two\.py"):
        head_revision(Settings.migrations)


async def test_a_server_that_is_not_there_is_one_readable_line() -> None:
    settings = settings_for(f"postgresql://app:s3cret@127.0.0.1:{unused_port()}/x")
    with pytest.raises(MigrationError) as caught:
        await upgrade(settings)
    assert "ConnectionRefusedError" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_the_password_file_is_for_migrations_too(
    server_factory: ServerFactory, add_revision: Revisions, tmp_path: Path
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    server = await server_factory()
    secret = tmp_path / "password"
    secret.write_text(server.password + "\n")
    url = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    await upgrade(settings_for(url, database_password_file=secret))
