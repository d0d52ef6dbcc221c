"""What the scripts of `deploy/postgres` let each role do, and what not."""

import subprocess
from pathlib import Path

import asyncpg
import pytest
from lifeguard.database.connect_options import session_limits
from lifeguard.testing.plugin import ServerFactory

from app.settings import Settings
from tests.secured import PASSWORDS, SecuredServer

LOGINS = ("migrator", "app", "monitor")


@pytest.mark.parametrize("role", LOGINS)
async def test_each_logs_in_with_the_password_of_its_file(secured: SecuredServer, role: str) -> None:
    async with secured.connect(role) as connection:
        assert await connection.fetchval("SELECT current_user") == role


@pytest.mark.parametrize("role", LOGINS)
async def test_none_has_another_database_or_another_right(secured: SecuredServer, role: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with secured.connect(role, "postgres"):
            pass
    async with secured.connect(role) as connection:
        assert not await connection.fetchval(
            "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls"
            " FROM pg_roles WHERE rolname = current_user"
        )


def test_no_password_is_in_the_servers_log(secured: SecuredServer) -> None:
    log = (secured.server.directory / "server.log").read_text()
    assert "ALTER ROLE app SET statement_timeout" in log  # it does log statements
    assert "canary" not in log


class TestApp:
    async def test_uses_what_migrator_makes_later(self, secured: SecuredServer) -> None:
        async with secured.connect("migrator") as migrator, secured.connect("app") as app:
            await migrator.execute("CREATE TABLE later (id serial, n int)")
            await migrator.execute("CREATE FUNCTION two() RETURNS int RETURN 2")
            await app.execute("INSERT INTO later (n) VALUES (1)")
            await app.execute("UPDATE later SET n = two()")
            assert await app.fetchval("DELETE FROM later RETURNING n") == 2

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE TABLE mine (id int)",
            "CREATE TEMPORARY TABLE mine (id int)",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION mine() RETURNS int RETURN 1",
            "CREATE ROLE mine",
            "TRUNCATE things",
            "DROP TABLE things",
            "ALTER TABLE things ADD COLUMN mine int",
            "CREATE INDEX ON things (id)",
            "SELECT setval('things_id_seq', 1)",
            "SET ROLE migrator",
            "COPY things TO PROGRAM 'true'",
            "SELECT pg_read_file('postgresql.conf')",
        ],
    )
    async def test_cannot(self, secured: SecuredServer, statement: str) -> None:
        async with secured.connect("migrator") as migrator, secured.connect("app") as app:
            await migrator.execute("CREATE TABLE IF NOT EXISTS things (id serial)")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute(statement)

    async def test_has_the_services_limits_also_when_it_brings_none(self, secured: SecuredServer) -> None:
        async with secured.connect("app") as app:
            rows = await app.fetch("SELECT name, setting::float / 1000 FROM pg_settings WHERE unit = 'ms'")
        found = {row[0]: row[1] for row in rows}
        for name, limit in session_limits(Settings()).items():
            assert found[name] == limit


class TestMonitor:
    async def test_sees_what_others_do(self, secured: SecuredServer) -> None:
        async with secured.connect("app") as app, secured.connect("monitor") as monitor:
            await app.execute("SELECT 'work of app'")
            queries = await monitor.fetch("SELECT query FROM pg_stat_activity WHERE usename = 'app'")
        assert "SELECT 'work of app'" in [row["query"] for row in queries]

    async def test_sees_no_data(self, secured: SecuredServer) -> None:
        async with secured.connect("migrator") as migrator, secured.connect("monitor") as monitor:
            await migrator.execute("CREATE TABLE IF NOT EXISTS things (id serial)")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await monitor.fetch("SELECT * FROM public.things")
            assert await monitor.fetchval("SHOW default_transaction_read_only") == "on"


class TestReplicator:
    def test_may_stream_and_nobody_else(self, secured: SecuredServer) -> None:
        assert secured.says_who_it_is("replicator")
        with pytest.raises(subprocess.CalledProcessError):
            secured.says_who_it_is("app")

    async def test_cannot_read_the_database(self, secured: SecuredServer) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with secured.connect("replicator"):
                pass


class TestScripts:
    def test_may_run_again(self, secured: SecuredServer) -> None:
        secured.set_up()

    async def test_change_the_password_when_the_file_has_changed(
        self, secured: SecuredServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = secured.secrets / "app_password"
        before = file.read_text()
        file.write_text("another")
        secured.set_up()
        with pytest.raises(asyncpg.InvalidPasswordError):
            async with secured.connect("app"):
                pass
        monkeypatch.setitem(PASSWORDS, "app", "another")
        async with secured.connect("app"):
            pass
        file.write_text(before)
        secured.set_up()

    @pytest.mark.parametrize("content", [None, ""])
    def test_make_no_role_without_a_password(self, secured: SecuredServer, content: str | None) -> None:
        file = secured.secrets / "app_password"
        before = file.read_text()
        file.unlink()
        if content is not None:
            file.write_text(content)
        with pytest.raises(subprocess.CalledProcessError) as caught:
            secured.set_up()
        file.write_text(before)
        assert "the password of app is not there" in caught.value.stderr

    async def test_work_for_an_administrator_who_is_no_superuser(
        self, server_factory: ServerFactory, tmp_path: Path
    ) -> None:
        """As on managed servers, where nobody is one."""
        server = await server_factory()
        async with server.connect() as superuser:
            await superuser.execute("CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin'")
            await superuser.execute("GRANT pg_monitor TO admin WITH ADMIN OPTION")
        secured = SecuredServer(server, tmp_path)
        (tmp_path / "replicator_password").unlink()  # their standbys are their own business
        await secured.create_database(owner="admin")
        secured.set_up(user="admin", password="admin")
        async with secured.connect("migrator") as migrator, secured.connect("app") as app:
            await migrator.execute("CREATE TABLE things (id int)")
            await app.execute("INSERT INTO things VALUES (1)")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await app.execute("CREATE TABLE mine (id int)")
