"""The embedded server: what a developer's machine may do to it between two starts."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from lifeguard.development import embedded, unprivileged
from lifeguard.development.embedded import HOST, EmbeddedServer, EmbeddedServerError
from lifeguard.development.unprivileged import Account, account_for
from lifeguard.testing.servers import copy_cluster, is_running, server_directory

OWNER = """
import sys, time
from pathlib import Path
from lifeguard.development.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]), disposable=True)
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""

needs_setpriv = pytest.mark.skipif(
    unprivileged._setpriv() is None, reason="only setpriv ties the server to its starter"
)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to step aside")


@pytest.fixture
def empty() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lifeguard-") as path:
        yield Path(path)


@pytest.fixture
def directory(cluster: Path) -> Iterator[Path]:
    """With a cluster that was never used."""
    with server_directory() as path:
        yield copy_cluster(cluster, path / "pg")


@pytest.fixture(scope="module")
def server(cluster: Path) -> Iterator[EmbeddedServer]:
    """A server that tests leave as it is; those that hurt one start their own."""
    with (
        server_directory() as path,
        EmbeddedServer(copy_cluster(cluster, path / "pg"), disposable=True) as running,
    ):
        yield running


@pytest.fixture
def victim(directory: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(directory, disposable=True) as running:
        yield running


async def ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


class TestStart:
    async def test_serves_over_tcp_and_unix_socket(self, server: EmbeddedServer) -> None:
        assert await ask(server.dsn(), "SELECT inet_server_port()") == server.port
        assert await ask(server.dsn(unix=True), "SELECT inet_server_addr()") is None

    @pytest.mark.parametrize("unix", [False, True])
    async def test_asks_for_the_password(self, server: EmbeddedServer, unix: bool) -> None:
        wrong = server.dsn(unix=unix).replace(server.password, "guessed")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(wrong, "SELECT 1")

    async def test_takes_parameters(self, directory: Path) -> None:
        with EmbeddedServer(directory, parameters={"max_connections": "7"}) as server:
            assert await ask(server.dsn(), "SHOW max_connections") == "7"

    async def test_is_durable_by_default(self, directory: Path) -> None:
        with EmbeddedServer(directory) as durable:
            assert await ask(durable.dsn(), "SHOW fsync") == "on"
            assert await ask(durable.dsn(), "SHOW full_page_writes") == "on"

    async def test_keeps_commits_over_a_crash_even_when_disposable(self, server: EmbeddedServer) -> None:
        assert await ask(server.dsn(), "SHOW fsync") == "off"
        assert await ask(server.dsn(), "SHOW synchronous_commit") == "on"

    def test_ignores_postgres_variables_of_the_user(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("PGPORT", "PGDATA", "PGUSER", "PGSSLMODE", "PGOPTIONS"):
            monkeypatch.setenv(name, "nonsense")
        with EmbeddedServer(directory, disposable=True) as server:
            assert server.running
            assert "/mine" in server.ensure_database("mine")

    async def test_works_where_paths_are_too_long_for_a_socket(self, directory: Path) -> None:
        deep = directory.rename(directory.with_name("deep" * 30))
        with EmbeddedServer(deep, disposable=True) as server:
            elsewhere = server.socket_directory
            assert await ask(server.dsn(unix=True), "SELECT 1") == 1
        assert not elsewhere.exists()

    def test_twice_is_once(self, server: EmbeddedServer) -> None:
        pid = server.pid
        server.start()
        assert server.pid == pid

    def test_replaces_a_cluster_that_was_interrupted_half_way(self, empty: Path) -> None:
        unfinished = empty / "data.unfinished"
        unfinished.mkdir()
        (unfinished / "PG_VERSION").write_text("18\n")
        with EmbeddedServer(empty, disposable=True) as server:
            assert server.running
        assert not unfinished.exists()

    def test_stays_out_of_the_terminals_process_group(self, server: EmbeddedServer) -> None:
        assert server.pid is not None
        assert os.getpgid(server.pid) != os.getpgid(0)


class TestNextStart:
    async def test_finds_the_data_and_the_port(self, directory: Path) -> None:
        with EmbeddedServer(directory, disposable=True) as first:
            await ask(first.dsn(), "CREATE TABLE kept AS SELECT 42 AS n")
        with EmbeddedServer(directory, disposable=True) as second:
            assert await ask(second.dsn(), "SELECT n FROM kept") == 42
            assert second.dsn() == first.dsn()

    async def test_takes_another_port_when_the_last_one_is_taken(self, directory: Path) -> None:
        with EmbeddedServer(directory, disposable=True) as first:
            pass
        with (
            socket.create_server((HOST, first.port)),
            EmbeddedServer(directory, disposable=True) as second,
        ):
            assert second.port != first.port
            assert await ask(second.dsn(), "SELECT 1") == 1

    @needs_setpriv
    async def test_recovers_what_a_killed_owner_left(self, directory: Path) -> None:
        owner = subprocess.Popen([sys.executable, "-c", OWNER, directory], stdout=subprocess.PIPE, text=True)
        assert owner.stdout is not None
        with owner, owner.stdout:
            owner.stdout.readline()
            successor = EmbeddedServer(directory, disposable=True)
            port = int((directory / "port").read_text())
            dsn = f"postgresql://postgres:{successor.password}@{HOST}:{port}/postgres"
            await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS n")
            owner.kill()
        with successor:
            assert await ask(successor.dsn(), "SELECT n FROM kept") == 42


class TestRefusal:
    """Each in one line that names what to look at."""

    @pytest.fixture(autouse=True)
    def _no_predecessor_is_going_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "TAKEOVER_TIMEOUT", 0.1)

    def refusal(self, server: EmbeddedServer) -> str:
        with pytest.raises(EmbeddedServerError) as refused:
            server.start()
        assert not server.running
        assert "\n" not in str(refused.value)
        return str(refused.value)

    def test_port_taken(self, empty: Path) -> None:
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]
            said = self.refusal(EmbeddedServer(empty, port=port, disposable=True))
        assert said == f"port {port} of {HOST} is taken: the embedded PostgreSQL server cannot use it"

    def test_another_server_on_the_directory(self, server: EmbeddedServer) -> None:
        """It is told once that it is waited for, before anything is."""
        told: list[str] = []
        said = self.refusal(EmbeddedServer(server.directory, disposable=True, on_wait=told.append))
        assert f"another PostgreSQL server (process {server.pid}) is running on" in said
        assert told == [f"{said} (waiting 0.1 s for its end)"]
        assert "`dev --data`" in said
        assert server.running

    def test_data_of_another_major_version(self, directory: Path) -> None:
        with EmbeddedServer(directory, disposable=True) as server:
            pass
        (server.data / "PG_VERSION").write_text("12\n")
        said = self.refusal(server)
        assert "initialized by PostgreSQL version 12" in said
        assert str(server.data) in said

    def test_parameter_that_does_not_exist(self, directory: Path) -> None:
        said = self.refusal(EmbeddedServer(directory, parameters={"no_such": "1"}, disposable=True))
        assert 'unrecognized configuration parameter "no_such"' in said

    def test_directory_that_is_a_file(self, empty: Path) -> None:
        path = empty / "file"
        path.touch()
        assert str(path) in self.refusal(EmbeddedServer(path))

    def test_cluster_that_cannot_be_created(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        empty.chmod(0o755)
        for name, does in [("initdb", "echo 'error: no space left' >&2; exit 1"), ("postgres", "")]:
            script = empty / name
            script.write_text(f"#!/bin/sh\n{does}\n")
            script.chmod(0o755)
        monkeypatch.setattr(embedded, "binaries", lambda: empty)
        said = self.refusal(EmbeddedServer(empty / "pg", disposable=True))
        assert said == f"cannot create a cluster in {empty / 'pg'}: error: no space left"

    def test_server_that_never_becomes_ready(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "START_TIMEOUT", 0.0)
        said = self.refusal(EmbeddedServer(directory, disposable=True))
        assert said.startswith("the embedded PostgreSQL server cannot start on ")

    def test_wheel_not_installed(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        assert "set DATABASE_URL" in self.refusal(EmbeddedServer(empty))

    def test_port_of_a_server_that_never_started(self, empty: Path) -> None:
        with pytest.raises(EmbeddedServerError, match="has not been started"):
            EmbeddedServer(empty).dsn()


class TestStop:
    @pytest.mark.parametrize(("mode", "state"), [("fast", "shut down"), ("immediate", "in production")])
    def test_leaves_the_cluster_as_the_mode_says(
        self, victim: EmbeddedServer, mode: embedded.StopMode, state: str
    ) -> None:
        victim.stop(mode)
        report = subprocess.run(
            [embedded.binaries() / "pg_controldata", victim.data],
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.search(rf"cluster state: +{state}\n", report.stdout)

    def test_ends_a_server_that_does_not_listen(self, victim: EmbeddedServer) -> None:
        pid = victim.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        victim.stop(timeout=0.1)
        assert not is_running(pid)

    async def test_keeps_the_port_for_the_next_start(self, victim: EmbeddedServer) -> None:
        port = victim.port
        victim.stop()
        assert victim.pid is None
        victim.start()
        assert victim.port == port


class TestDatabase:
    async def test_belongs_to_a_role_of_its_name_that_is_no_superuser(self, server: EmbeddedServer) -> None:
        dsn = server.ensure_database("ledger")
        assert await ask(dsn, "SELECT current_user || '@' || current_database()") == "ledger@ledger"
        assert await ask(dsn, "SHOW is_superuser") == "off"
        await ask(dsn, "CREATE TABLE mine (id int)")

    async def test_is_kept_when_it_exists(self, server: EmbeddedServer) -> None:
        dsn = server.ensure_database("twice")
        await ask(dsn, "CREATE TABLE kept AS SELECT 42 AS n")
        assert server.ensure_database("twice") == dsn
        assert await ask(dsn, "SELECT n FROM kept") == 42

    async def test_may_have_any_name(self, server: EmbeddedServer) -> None:
        name = 'It\'s "odd"; DROP/100%'
        dsn = server.ensure_database(name)
        assert await ask(dsn, "SELECT current_database()") == name

    def test_cannot_be_created_on_a_server_that_is_down(self, victim: EmbeddedServer) -> None:
        victim.stop()
        with pytest.raises(EmbeddedServerError, match="cannot create database ledger"):
            victim.ensure_database("ledger")


class TestAccount:
    @as_root
    def test_of_root_is_another_user_who_owns_the_data(self, server: EmbeddedServer) -> None:
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid == server.data.stat().st_uid != 0

    @as_root
    def test_of_root_is_the_owner_of_existing_data(self, empty: Path) -> None:
        data = empty / "data"
        data.mkdir()
        os.chown(data, 1, 1)
        assert account_for(data, embedded.binaries() / "postgres").uid == 1

    @as_root
    @needs_setpriv
    async def test_needs_no_permission_above_the_data(self, server: EmbeddedServer) -> None:
        closed = server.directory.parent.stat()
        assert (closed.st_mode & 0o777, closed.st_uid) == (0o700, 0)
        assert await ask(server.dsn(unix=True), "SELECT 1") == 1

    @as_root
    def test_changes_user_without_setpriv(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unprivileged, "_setpriv", lambda: None)
        empty.chmod(0o711)
        script = empty / "whoami"
        script.write_text("#!/bin/sh\nid -un; id -G\n")
        script.chmod(0o755)
        account = account_for(empty / "data", script)
        shown = account.run([str(script)]).stdout.decode().split()
        assert shown[0] in unprivileged.SUBSTITUTES
        assert shown[1:] == [str(account.gid)]

    @as_root
    def test_says_so_when_nobody_can_run_the_server(
        self, empty: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(unprivileged, "_setpriv", lambda: None)
        with pytest.raises(PermissionError, match="does not run as root"):
            account_for(empty / "data", empty / "closed" / "postgres")

    @as_root
    def test_says_so_when_there_is_nobody(self, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(unprivileged, "SUBSTITUTES", ("no-such-user",))
        with pytest.raises(LookupError, match="there is no user no-such-user"):
            account_for(empty / "data", embedded.binaries() / "postgres")

    def test_of_a_normal_user_is_that_user_and_needs_no_setpriv(
        self, empty: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr("shutil.which", lambda _: None)
        unprivileged._setpriv.cache_clear()
        assert account_for(empty, embedded.binaries() / "postgres") == Account()
        unprivileged._setpriv.cache_clear()
