"""The command line, started as its users start it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest
from lifeguard.database.schema import current_revision, head_revision
from lifeguard.development.embedded import EmbeddedServer
from lifeguard.settings import env_example
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.processes import environment, running
from lifeguard.testing.servers import PostgresServer, is_running
from lifeguard.testing.waiting import eventually
from typer.testing import CliRunner, Result

from app.commands import cli
from app.settings import Settings
from tests.processes import ROOT, run_command

DEV = ["-m", "app", "dev"]
NOWHERE = "postgresql://nobody:topsecret@127.0.0.1:1/x"


def embedded_dsn(directory: Path) -> str:
    """Of the server that `dev` started in this directory."""
    data = directory / ".data/postgres18"
    password, port = ((data / name).read_text().strip() for name in ("password", "port"))
    return f"postgresql://lifeguard:{password}@127.0.0.1:{port}/lifeguard"


def postmaster(directory: Path) -> int:
    return int((directory / ".data/postgres18/data/postmaster.pid").read_text().split()[0])


class TestFaults:
    """One readable line each, no traceback."""

    @pytest.fixture(autouse=True)
    def _clean_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        for name in Settings.model_fields:
            monkeypatch.delenv(name.upper(), raising=False)

    def fault(self, command: str, code: int, **variables: str) -> str:
        """What the command says on standard error when it ends with this exit code."""
        ended = CliRunner(env=variables).invoke(cli, [command])
        assert ended.exit_code == code
        return ended.stderr

    def test_the_process_says_it_in_a_line(self, tmp_path: Path) -> None:
        variables = {"POOL_MIN_SIZE": "30", "POOL_MAX_SIZE": "20"}
        ended = run_command("dev", cwd=tmp_path, variables=variables)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr == "POOL_MIN_SIZE=30: must not exceed POOL_MAX_SIZE=20\n"

    @pytest.mark.parametrize("command", ["serve", "dev", "migrate", "doctor", "sizing"])
    def test_each_wrong_setting_has_its_line(self, command: str) -> None:
        said = self.fault(command, 2, POOL_MAX_SIZE="many", PORT="99999")
        names = [line.partition("=")[0] for line in said.splitlines()]
        assert sorted(names) == ["POOL_MAX_SIZE", "PORT"]

    @pytest.mark.parametrize("command", ["doctor", "sizing", "migrate"])
    def test_no_database(self, command: str) -> None:
        said = self.fault(command, 2)
        assert (
            said == "DATABASE_URL: required here; a database of `make run` would do, and there is none yet\n"
        )

    def test_dev_in_production(self) -> None:
        said = self.fault("dev", 2, APP_ENV="production", DATABASE_URL=NOWHERE)
        assert said.startswith("APP_ENV=production: `dev` is for development")

    @pytest.mark.parametrize("command", ["serve", "dev"])
    def test_port_taken(self, command: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = str(listener.getsockname()[1])
            said = self.fault(command, 1, PORT=port, DATABASE_URL=NOWHERE)
        taken = f"port {port} of 127.0.0.1 is taken: stop what listens there, or set PORT\n"
        assert said == taken

    def test_address_of_another_machine(self) -> None:
        said = self.fault("serve", 1, HOST="192.0.2.1", DATABASE_URL=NOWHERE)
        assert said.startswith("cannot listen on port 8000 of 192.0.2.1: ")
        assert said.count("\n") == 1

    def test_embedded_server_that_cannot_start(self, tmp_path: Path) -> None:
        (tmp_path / ".data").write_text("in the way")
        said = self.fault("dev", 1, PORT="0")
        assert said.startswith("cannot use ")
        assert said.count("\n") == 1

    def test_database_that_does_not_answer(self) -> None:
        said = self.fault("sizing", 1, DATABASE_URL=NOWHERE)
        assert said.count("\n") == 1
        assert "nobody@127.0.0.1:1/x" in said
        assert "topsecret" not in said

    @pytest.mark.parametrize("command", ["doctor", "sizing", "migrate"])
    @pytest.mark.parametrize("place", ["url", "variable", "file", "passfile"])
    def test_password_that_the_server_repeats(
        self, tmp_path: Path, postgres: PostgresServer, command: str, place: str
    ) -> None:
        """As it does where somebody has written it in the place of the user, or of the database."""
        secret, database = "canary:hush@hush", quote("canary:hush@hush", safe="")
        address = f"127.0.0.1:{postgres.port}/{database}"
        variables = {"DATABASE_URL": f"postgresql://postgres@{address}"}
        file = tmp_path / "password"
        match place:
            case "url":
                variables["DATABASE_URL"] = f"postgresql://{database}:{database}@{address}"
            case "variable":
                variables["PGPASSWORD"] = secret
            case "file":
                file.write_text(secret)
                variables["DATABASE_PASSWORD_FILE"] = str(file)
            case "passfile":
                file.write_text("*:*:*:*:" + secret.replace(":", "\\:"))
                file.chmod(0o600)
                variables["PGPASSFILE"] = str(file)
        ended = CliRunner(env=variables).invoke(cli, [command])
        assert ended.exit_code == 1
        said = ended.stdout + ended.stderr
        assert "***" in said or command == "migrate"  # which says the user, and not the database
        assert "hush" not in said

    def test_migration_without_its_database(self, tmp_path: Path) -> None:
        ended = run_command("migrate", cwd=tmp_path, variables={"DATABASE_URL": NOWHERE})
        assert ended.returncode == 1
        assert ended.stderr.startswith("cannot migrate: ")
        assert ended.stderr.count("\n") == 1
        assert "topsecret" not in ended.stderr + ended.stdout


class TestServe:
    async def test_ends_well_at_sigterm(self, tmp_path: Path, migrated_database: str) -> None:
        variables = {"DATABASE_URL": migrated_database}
        async with running(["-m", "app", "serve"], cwd=tmp_path, variables=variables) as service:
            await eventually(lambda: service.answers("/readyz"))
            assert "server" not in (await service.get("/healthz")).headers
            assert await service.end(signal.SIGTERM) == 0

    def test_starts_without_what_only_migrations_and_the_doctor_need(self) -> None:
        others = {"alembic", "sqlalchemy", "lifeguard.operations.checks.examination"}
        loaded = f"import sys, lifeguard.commands; print({others} & sys.modules.keys())"
        ended = subprocess.run(
            [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ended.stdout == "set()\n"

    @pytest.mark.parametrize("command", ["serve", "dev"])
    def test_refuses_a_server_that_is_too_small(
        self, tmp_path: Path, migrated_database: str, command: str
    ) -> None:
        variables = {"DATABASE_URL": migrated_database, "POOL_INSTANCES": "40", "PORT": "0"}
        ended = run_command(command, cwd=tmp_path, variables=variables)
        assert ended.returncode == 2
        assert ended.stderr.startswith("POOL_MAX_SIZE=20 x POOL_INSTANCES=40: 800 connections, but ")
        assert ended.stderr.count("\n") == 1
        assert "Traceback" not in ended.stdout
        assert ended.stdout.count("800 connections") == 1  # the event `pool_oversized`


class TestMigrate:
    async def test_brings_the_schema_up_to_date(self, tmp_path: Path, database_url: str) -> None:
        variables = {"DATABASE_URL": database_url}
        assert run_command("migrate", cwd=tmp_path, variables=variables).returncode == 0
        connection = await asyncpg.connect(database_url)
        assert await current_revision(connection) == head_revision(Settings.migrations)
        await connection.close()


@pytest.mark.slow
class TestDev:
    async def test_brings_its_own_database_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        async with running(DEV, cwd=tmp_path) as service:
            await eventually(lambda: service.answers("/readyz"))
            for part in (service.url, "/docs", "/pool/live", "lifeguard@127.0.0.1"):
                assert part in service.output
            server = postmaster(tmp_path)
            await self.leave_a_mark(embedded_dsn(tmp_path))
            told = (("doctor", "read-write"), ("sizing", "the server has"), ("migrate", "schema_ready"))
            for command, said in told:
                looked = await asyncio.to_thread(run_command, command, cwd=tmp_path, variables={})
                assert (looked.returncode, said in looked.stdout) == (0, True), looked.stdout + looked.stderr
            assert await service.end(signal.SIGINT) == 0
            assert not is_running(server)
            assert "Traceback" not in service.output

        async with running(DEV, cwd=tmp_path) as service:
            assert await self.finds_the_mark(embedded_dsn(tmp_path))
            server = postmaster(tmp_path)
            service.process.kill()
            await eventually(lambda: not is_running(server))

    async def test_refuses_the_data_directory_of_another_checkout(self, tmp_path: Path) -> None:
        async with running(DEV, cwd=tmp_path) as service:
            await eventually(lambda: service.answers("/readyz"))
            connection = await asyncpg.connect(embedded_dsn(tmp_path))
            await connection.execute("UPDATE alembic_version SET version_num = 'of_another_checkout'")
            await connection.close()
            assert await service.end(signal.SIGINT) == 0
        ended = await asyncio.to_thread(run_command, "dev", cwd=tmp_path, variables={"PORT": "0"})
        assert ended.returncode == 1
        assert "schema_ready" not in ended.stdout + ended.stderr
        assert "another checkout" in ended.stderr
        assert "rm -rf .data/postgres18, or `dev --data`" in ended.stderr
        assert ended.stderr.count("\n") == 1

    async def test_refuses_the_database_of_another_checkout_before_anything_is_logged(
        self, tmp_path: Path, migrated_database: str
    ) -> None:
        connection = await asyncpg.connect(migrated_database)
        await connection.execute("UPDATE alembic_version SET version_num = 'of_another_checkout'")
        await connection.close()
        variables = {"DATABASE_URL": migrated_database, "PORT": "0"}
        ended = await asyncio.to_thread(run_command, "dev", cwd=tmp_path, variables=variables)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "at revision of_another_checkout, which this version does not have" in ended.stderr
        for remedy in ("take the branch that has it", "`alembic downgrade`", "a new database"):
            assert remedy in ended.stderr
        assert ended.stderr.count("\n") == 1

    async def leave_a_mark(self, dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        await connection.execute("CREATE TABLE mark AS SELECT 42 AS n")
        await connection.close()

    async def finds_the_mark(self, dsn: str) -> bool:
        connection = await asyncpg.connect(dsn)
        try:
            return bool(await connection.fetchval("SELECT n = 42 FROM mark"))
        finally:
            await connection.close()

    async def test_becomes_ready_unaided_when_its_server_appears(
        self, tmp_path: Path, server_factory: ServerFactory
    ) -> None:
        server = await server_factory()
        await server.stop()
        variables = {"DATABASE_URL": server.dsn()}
        async with running(DEV, cwd=tmp_path, variables=variables) as service:
            not_ready = await service.get("/readyz")
            assert not_ready.status_code == 503
            await server.start()
            await eventually(lambda: service.answers("/readyz"))
            assert await service.end() == 0
            assert server.password not in service.output + not_ready.text


class TestTools:
    """What a person opens on the database."""

    def opened(self, command: str, database: str, *arguments: str, typed: str = "") -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "app", command, *arguments],
            env=environment(DATABASE_URL=database),
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def test_psql_takes_its_own_arguments(self, database_url: str) -> None:
        assert self.opened("psql", database_url, "-Atc", "SELECT 42") == "42\n"

    def test_shell_awaits_and_goes_on_after_an_error(self, database_url: str) -> None:
        typed = (
            "one = await database.fetchval('SELECT 1/0')\n"
            "answer = await database.fetchval('SELECT 42')\n"
            "print('the answer is', answer)\n"
            "async with database.transaction() as transaction:\n"
            "    print('read', await transaction.fetchval('SELECT 43'))\n\n"
        )
        said = self.opened("shell", database_url, typed=typed)
        assert "the answer is 42" in said
        assert "read 43" in said

    @pytest.mark.slow
    def test_starts_the_embedded_server_where_no_dev_runs(self, tmp_path: Path) -> None:
        data = tmp_path / ".data/postgres18"
        with EmbeddedServer(data) as server:
            server.ensure_database("lifeguard")
        ended = run_command("psql", "-Atc", "SELECT current_user", cwd=tmp_path, variables={})
        assert (ended.stdout, ended.stderr) == ("lifeguard\n", "")
        assert not (data / "data/postmaster.pid").exists()


class TestDoctor:
    def test_is_content_where_the_service_could_serve(self, migrated_database: str) -> None:
        ended = CliRunner(env={"DATABASE_URL": migrated_database}).invoke(cli, ["doctor"])
        assert ended.exit_code == 0
        assert "FAIL" not in ended.stdout

    def test_fails_where_it_could_not(self) -> None:
        ended = CliRunner(env={"DATABASE_URL": NOWHERE}).invoke(cli, ["doctor"])
        assert ended.exit_code == 1
        assert "topsecret" not in ended.output

    def test_says_the_same_to_programs(self, migrated_database: str) -> None:
        ended = CliRunner(env={"DATABASE_URL": migrated_database}).invoke(cli, ["doctor", "--json"])
        told = json.loads(ended.stdout)
        assert (ended.exit_code, told["format"], told["counts"]["fail"]) == (0, 1, 0)
        assert told["level"] in {"ok", "unknown"}
        assert sum(told["counts"].values()) == len(told["findings"])
        broken = CliRunner(env={"DATABASE_URL": NOWHERE}).invoke(cli, ["doctor", "--json"])
        (wrong,) = [one for one in json.loads(broken.stdout)["findings"] if one["level"] == "fail"]
        assert (broken.exit_code, wrong["on"], wrong["check"]) == (1, "primary", "server")
        assert "topsecret" not in broken.output
        bad = CliRunner(env={"DATABASE_URL": NOWHERE, "PORT": "x"}).invoke(cli, ["doctor", "--json"])
        assert (bad.exit_code, bad.stdout) == (2, "")

    def test_is_quiet_where_nobody_reads_on(self) -> None:
        """As before `| head -3`."""
        ours, theirs = os.pipe()
        os.close(ours)
        command = [sys.executable, "-m", "app", "doctor"]
        with os.fdopen(theirs, "wb") as out:
            ended = subprocess.run(
                command,
                check=False,
                stdout=out,
                stderr=subprocess.PIPE,
                env={**os.environ, "DATABASE_URL": NOWHERE},
            )
        assert (ended.returncode, ended.stderr) == (1, b"")


class TestSizing:
    def sizing(self, **variables: str) -> Result:
        return CliRunner(env=variables).invoke(cli, ["sizing"])

    def test_compares_the_pools_with_the_server(self, database_url: str) -> None:
        ended = self.sizing(DATABASE_URL=database_url, POOL_INSTANCES="4")
        assert ended.exit_code == 0
        assert "max_connections=200" in ended.stdout
        assert "80 (POOL_INSTANCES=4 x POOL_MAX_SIZE=20)" in ended.stdout

    def test_refuses_more_than_the_server_has(self, database_url: str) -> None:
        ended = self.sizing(DATABASE_URL=database_url, POOL_INSTANCES="40")
        assert ended.exit_code == 2
        assert ended.stderr.count("\n") == 1
        assert "800 connections" in ended.stderr


class TestSettings:
    def test_prints_the_example(self) -> None:
        assert CliRunner().invoke(cli, ["settings"]).stdout == env_example(Settings)
