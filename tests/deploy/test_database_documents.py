"""What docs/database tells an administrator to do is done, block by block, to real servers."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from lifeguard.database.migrations import upgrade
from lifeguard.development.embedded import HOST, binaries
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import server_directory, unused_port
from lifeguard.testing.serving import until_ready
from lifeguard.testing.waiting import eventually

from deploy.documents import blocks
from tests.inside import service, settings_for
from tests.secured import DATABASE, PASSWORDS, SecuredServer, secured_server
from tests.shell import Shell, access_to

pytestmark = pytest.mark.slow

ROWS = 1000
OLD_PROGRAMS = sorted(
    path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if int(path.parts[4]) < 18
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in which servers and backups may be."""
    with server_directory() as directory:
        yield directory


@pytest.fixture
async def archive(place: Path) -> Path:
    (place / "archive").mkdir()
    (place / "archive").chmod(0o777)
    return place / "archive"


@pytest.fixture
async def production(cluster: Path, tmp_path: Path, archive: Path) -> AsyncIterator[SecuredServer]:
    """A server with the roles of `deploy/postgres` and some orders, which archives as the document says."""
    (text,) = blocks("backup.md", "A copy of the whole server", language="ini")
    pairs = (line.split(" = ", 1) for line in text.replace("$ARCHIVE", str(archive)).splitlines())
    parameters = {name: value.strip("'") for name, value in pairs}
    async with secured_server(cluster, tmp_path, parameters) as secured:
        async with secured.connect("migrator") as migrator:
            await migrator.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, note text)")
            await migrator.execute(
                "INSERT INTO orders (note) SELECT 'order ' || n FROM generate_series(1, 1000) n"
            )
        yield secured


@pytest.fixture
async def shell(production: SecuredServer, place: Path, archive: Path) -> Shell:
    (place / "work" / "backups").mkdir(parents=True)
    variables = {
        **access_to(production.server),
        "PGDATABASE": DATABASE,
        "BACKUPS": str(place / "work" / "backups"),
        "ARCHIVE": str(archive),
    }
    shell = Shell(place / "work", variables)
    Shell(place / "work" / "backups", {})
    return shell


async def orders(connection: asyncpg.Connection) -> int:
    count: int = await connection.fetchval("SELECT count(*) FROM orders")
    return count


@asynccontextmanager
async def on(port: str, role: str = "app") -> AsyncIterator[asyncpg.Connection]:
    """A session of this role's on another server that has the same roles."""
    connection = await asyncpg.connect(
        host=HOST, port=int(port), user=role, password=PASSWORDS[role], database=DATABASE
    )
    try:
        yield connection
    finally:
        await connection.close()


async def follow(shell: Shell, document: str, heading: str, **variables: str) -> list[str]:
    return [await shell.run(block, **variables) for block in blocks(document, heading)]


async def test_a_dump_is_restored_and_takes_the_place_of_the_database_while_the_service_runs(
    production: SecuredServer, shell: Shell
) -> None:
    await upgrade(settings_for(production.dsn("migrator")))
    await follow(shell, "backup.md", "A dump")
    async with service(settings_for(production.dsn("app"))) as running:
        await until_ready(running)
        async with production.connect("migrator") as migrator:
            await migrator.execute("DELETE FROM orders")
        await follow(shell, "restore.md", "Beside the one that is broken")

        async def served() -> bool:
            return (await running.client.get("/items")).is_success

        await eventually(served)
        async with running.state["database"].connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM orders") == ROWS
    async with production.connect("app") as app:
        await app.execute("INSERT INTO orders (note) VALUES ('the next')")
        assert await app.fetchval("SELECT max(id) FROM orders") == ROWS + 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("CREATE TEMPORARY TABLE mine (id int)")
    async with production.connect("migrator") as migrator:
        await migrator.execute("ALTER TABLE orders ADD COLUMN later int")  # whose it is


async def test_a_new_server_gets_the_roles_with_their_passwords_and_the_data(
    production: SecuredServer, shell: Shell, server_factory: ServerFactory
) -> None:
    await follow(shell, "backup.md", "A dump")
    new = await server_factory()
    await follow(shell, "restore.md", "On a new server", **access_to(new))
    async with on(str(new.port)) as app:
        assert await orders(app) == ROWS
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute("DROP TABLE orders")


async def test_a_copy_and_its_wal_give_back_the_moment_before_a_mistake(
    production: SecuredServer, shell: Shell, archive: Path
) -> None:
    await follow(shell, "backup.md", "A copy of the whole server")
    async with production.connect("app") as app, production.server.connect() as admin:
        await app.execute("INSERT INTO orders (note) VALUES ('after the copy')")
        good = str(await admin.fetchval("SELECT clock_timestamp()::text"))
        await app.execute("DELETE FROM orders")
        written = await admin.fetchval("SELECT pg_walfile_name(pg_switch_wal())")
        await eventually((archive / written).exists)
    port, data = str(unused_port()), str(shell.directory / "restored")
    named = {"RESTORED_DATA": data, "RESTORED_PORT": port, "TARGET_TIME": good}
    try:
        await follow(shell, "restore.md", "To a moment", **named)

        async def takes_writes() -> bool:
            async with on(port) as app:
                return not await app.fetchval("SELECT pg_is_in_recovery()")

        await eventually(takes_writes)
        async with on(port) as app:
            assert await orders(app) == ROWS + 1
            await app.execute("INSERT INTO orders (note) VALUES ('life goes on')")
    finally:
        await shell.run(f'pg_ctl --pgdata="{data}" --mode=immediate stop || true')


async def test_a_new_standby_streams(production: SecuredServer, shell: Shell) -> None:
    port, data = str(unused_port()), str(shell.directory / "standby")
    try:
        said = await follow(shell, "backup.md", "A new standby", STANDBY_DATA=data, STANDBY_PORT=port)
        assert "streaming" in said[-1]
        async with production.connect("app") as app, on(port) as reader:
            await app.execute("INSERT INTO orders (note) VALUES ('of the primary')")
            await eventually(lambda: _has(reader, ROWS + 1))
    finally:
        await shell.run(f'pg_ctl --pgdata="{data}" --mode=immediate stop || true')


async def _has(connection: asyncpg.Connection, count: int) -> bool:
    return await orders(connection) == count


@pytest.mark.skipif(not OLD_PROGRAMS, reason="no older PostgreSQL (Debian: apt install postgresql)")
@pytest.mark.deploy
@pytest.mark.parametrize("way", ["pg_upgrade", "Dump and restore"])
async def test_an_older_server_becomes_one_of_this_version(place: Path, way: str) -> None:
    old_programs, port = OLD_PROGRAMS[-1], str(unused_port())
    (place / "work").mkdir()
    named = {
        "OLD_BIN": str(old_programs),
        "NEW_BIN": str(binaries()),
        "OLD_DATA": str(place / "work" / "old"),
        "NEW_DATA": str(place / "work" / "new"),
        "OLD_PORT": port,
        "NEW_PORT": str(unused_port()),
        "PGHOST": HOST,
        "PGPORT": port,
        "PGUSER": "postgres",
        "PGDATABASE": DATABASE,
        "PGPASSWORD": "postgres",
        "PASSWORD_FILE": str(place / "work" / "password"),
    }
    shell = Shell(place / "work", named)
    (place / "work" / "password").write_text("postgres")
    (place / "work" / "password").chmod(0o644)
    made = '--username=postgres --auth=scram-sha-256 --pwfile="$PASSWORD_FILE" --encoding=UTF8 --locale=C'
    socket = f'-c unix_socket_directories="{place}/work"'
    await shell.run(f"""
        "$OLD_BIN/initdb" --pgdata="$OLD_DATA" --data-checksums {made} >/dev/null
        "$OLD_BIN/pg_ctl" --pgdata="$OLD_DATA" --options="-p $OLD_PORT {socket.replace('"', "'")}" \\
          --log="$OLD_DATA.log" --wait start
        createdb "$PGDATABASE"
        psql --quiet --command="CREATE ROLE app LOGIN" --command="CREATE TABLE orders AS
          SELECT n AS id, 'order ' || n AS note FROM generate_series(1, {ROWS}) n" \\
          --command="GRANT SELECT ON orders TO app"
    """)
    try:
        if way == "Dump and restore":
            await shell.run(f"""
                "$NEW_BIN/initdb" --pgdata="$NEW_DATA" {made} >/dev/null
                "$NEW_BIN/pg_ctl" --pgdata="$NEW_DATA" --options="-p $NEW_PORT {socket.replace('"', "'")}" \\
                  --log="$NEW_DATA.log" --wait start
            """)
        said = await follow(shell, "major-upgrade.md", way)
        port = named["NEW_PORT"] if way == "Dump and restore" else port
        if way == "pg_upgrade":
            assert "Clusters are compatible" in said[0]
        query = (
            "SELECT count(*), current_setting('server_version_num')::int / 10000,"
            " has_table_privilege('app', 'orders', 'SELECT') FROM orders"
        )
        found = await shell.run(f'psql --tuples-only --no-align --command="{query}"', PGPORT=port)
        assert found.strip() == f"{ROWS}|18|t"
    finally:
        for data in ("$OLD_DATA", "$NEW_DATA"):
            await shell.run(f'pg_ctl --pgdata="{data}" --mode=immediate stop || true')


def test_every_block_of_shell_is_run_by_some_test() -> None:
    """Here, by tests/deploy/test_disk_full.py, or by `make end-to-end`."""
    here = {
        "backup.md": ["A dump", "A copy of the whole server", "A new standby"],
        "restore.md": ["On a new server", "Beside the one that is broken", "To a moment"],
        "major-upgrade.md": ["pg_upgrade", "Dump and restore"],
        "disk-full.md": ["What to do"],
    }
    for document, headings in here.items():
        run = [block for heading in headings for block in blocks(document, heading)]
        assert run == blocks(document)
    assert {path.name for path in (Path(__file__).parents[2] / "docs/database").iterdir()} == here.keys()
