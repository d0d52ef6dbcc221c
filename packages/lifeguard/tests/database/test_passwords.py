"""Passwords of a command, of a function and of a file: everything that connects asks for them."""

import asyncio
import fcntl
import json
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from lifeguard.database import Database, DatabaseUnavailable
from lifeguard.database.connect_options import connect_options, dsn
from lifeguard.database.migrating_session import migrating_session
from lifeguard.database.password_command import run
from lifeguard.database.passwords import read_answer
from lifeguard.development import tools
from lifeguard.operations.doctor import examine
from lifeguard.pool import Connector, PasswordUnavailable, PoolEvent, PoolUnavailable
from lifeguard.settings import PasswordAnswer, Settings, SettingsError
from lifeguard.settings.environment import tokens_read
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, settings_for

# Prints the first line of a file, as an issuer of tokens would, and notes each time that it was asked. By the
# lock it never prints one that is being replaced.
_PRINTS = """
import fcntl, sys
with open(sys.argv[1]) as file:
    fcntl.flock(file, fcntl.LOCK_SH)
    print(file.readline(), end="")
with open(sys.argv[1] + ".asked", "a") as asked:
    asked.write(" ".join(sys.argv[2:]) + "\\n")
"""


class Role:
    """A role whose password a command gives, and which may be changed for both."""

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        self.server = server
        self.file = directory / "token"
        self.url = f"postgresql://token_user@127.0.0.1:{server.port}/postgres"
        program = directory / "print.py"
        program.write_text(_PRINTS)
        self.command = shlex.join([sys.executable, "-S", str(program), str(self.file)])

    async def rotate(self, password: str) -> None:
        self.file.touch()
        with self.file.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            async with self.server.connect() as admin:
                await admin.execute(f"ALTER ROLE token_user PASSWORD '{password}'")
            file.truncate()
            file.write(password + "\n")

    @property
    def asked(self) -> list[str]:
        noted = Path(f"{self.file}.asked")
        return noted.read_text().splitlines() if noted.exists() else []


@pytest.fixture
async def role(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Role]:
    async with postgres.connect() as admin:
        await admin.execute("DROP ROLE IF EXISTS token_user")
        await admin.execute("CREATE ROLE token_user LOGIN")
    role = Role(postgres, tmp_path)
    await role.rotate("first-token")
    yield role
    tokens_read.clear()


class TestACommand:
    async def test_gives_the_password_of_primary_and_replica_once(
        self, make_database: MakeDatabase, role: Role
    ) -> None:
        database = await make_database(
            role.url, database_replica_url=role.url, database_password_command=role.command, pool_min_size=3
        )
        assert await database.fetchval("SELECT session_user") == "token_user"
        assert await database.fetchval("SELECT session_user", read=True) == "token_user"
        assert len(role.asked) == 1

    async def test_wins_over_a_password_in_the_url(self, make_database: MakeDatabase, role: Role) -> None:
        url = role.url.replace("token_user@", "token_user:wrong@")
        database = await make_database(url, database_password_command=role.command)
        assert await database.fetchval("SELECT session_user") == "token_user"

    async def test_is_told_host_port_and_user(self, make_database: MakeDatabase, role: Role) -> None:
        command = f"{role.command} --at {{host}}:{{port}} '{{user}} {{region}}'"
        database = await make_database(role.url, database_password_command=command)
        assert await database.fetchval("SELECT 1") == 1
        assert role.asked == [f"--at 127.0.0.1:{role.server.port} token_user {{region}}"]

    async def test_is_for_migrations_and_for_the_doctor_too(self, role: Role) -> None:
        settings = settings_for(role.url, database_password_command=role.command)
        async with migrating_session(settings) as connection:
            assert await connection.fetchval("SELECT session_user") == "token_user"
        findings = {finding.topic: finding.level async for finding in examine(settings)}
        assert findings["primary server"] == "ok"

    def test_is_for_psql_too_and_in_no_command_line(
        self, role: Role, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        psql = tmp_path / "psql"
        psql.write_text('#!/bin/sh\necho "$PGPASSWORD for $*"\n')
        psql.chmod(0o755)
        settings = settings_for(role.url, database_password_command=role.command)
        assert tools.psql(settings, ["-c", "SELECT 1"]) == 0
        assert capfd.readouterr().out == f"first-token for {role.url} -c SELECT 1\n"

    async def test_that_hangs_is_ended_with_its_children(self, tmp_path: Path) -> None:
        alive = tmp_path / "alive"
        os.mkfifo(alive)
        # Both keep the fifo open: its end is read when neither is left.
        running = asyncio.create_task(run(["sh", "-c", f"exec 3>{alive}; sleep 600 & sleep 600"]))
        with await asyncio.to_thread(alive.open, "rb") as held:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await asyncio.to_thread(held.read) == b""

    async def test_that_hangs_is_a_failure_to_connect_that_says_so(self, role: Role) -> None:
        settings = settings_for(role.url, database_password_command="sleep 600", pool_connect_timeout=0.2)
        connector = Connector(dsn(settings), 0.2, None, connect_options(settings))
        with pytest.raises(PasswordUnavailable, match=r"no password within 0\.2 s") as caught:
            await connector.connect()
        assert isinstance(caught.value, TimeoutError)

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("echo 'no credentials' >&2; exit 3", "exit code 3: no credentials$"),
            ("echo hunter22; echo 'hunter22 is wrong' >&2; exit 1", r"exit code 1: \*\*\* is wrong$"),
            (f"echo 'Bearer {'x' * 40}' >&2; exit 1", r"exit code 1: Bearer \*\*\*$"),
            ("kill -9 $$", "ended by signal 9$"),
            ("yes | head -c 70000", "more than 65536 bytes$"),
            ("printf '\\377'", "no text in UTF-8$"),
        ],
    )
    async def test_that_fails_says_why_without_what_it_printed(self, script: str, said: str) -> None:
        with pytest.raises(PasswordUnavailable, match=said):
            await run(["sh", "-c", script])

    async def test_that_is_gone_is_a_failure_to_connect(self) -> None:
        with pytest.raises(PasswordUnavailable, match="No such file or directory"):
            await run(["/nowhere/token"])

    async def test_may_leave_something_running_that_holds_its_output(self) -> None:
        assert await run(["sh", "-c", "echo token; sleep 600 & exit 0"]) == "token\n"

    async def test_whose_failure_is_an_outage_tells_it_everywhere_without_a_secret(
        self, make_database: MakeDatabase, role: Role
    ) -> None:
        command = shlex.join(["sh", "-c", "echo half-a-secret; echo denied half-a-secret >&2; exit 9"])
        database = await make_database(role.url, database_password_command=command)
        with pytest.raises((PoolUnavailable, DatabaseUnavailable)) as caught:
            await database.fetchval("SELECT 1")
        await eventually(lambda: database.primary.stats().last_error)
        stats = database.primary.stats()
        assert stats.fault == "password"
        assert "exit code 9: denied ***" in str(stats.last_error)
        assert "half-a-secret" not in f"{stats} {caught.value!r} {caught.value.__cause__!r}"

    async def test_whose_password_is_refused_is_named_by_what_is_told(self, role: Role) -> None:
        told: list[PoolEvent] = []
        settings = settings_for(role.url, database_password_command="echo wrong-token")
        database = Database(settings, on_event=told.append)
        await database.open()
        await eventually(lambda: [event for event in told if event.name == "open_blocked"])
        await database.drain(timeout=20)
        (event,) = [event for event in told if event.name == "open_blocked"]
        assert "run DATABASE_PASSWORD_COMMAND by hand" in str(event.details["advice"])
        assert event.details["host"] == f"127.0.0.1:{role.server.port}"
        assert "wrong-token" not in f"{event}"

    async def test_that_gives_an_expired_token_is_a_failure_that_says_so(self, role: Role) -> None:
        printed = '{"token": "first-token", "expires_at": "2020-03-17T17:46:40Z"}'
        settings = settings_for(role.url, database_password_command=shlex.join(["echo", printed]))
        (finding,) = [finding async for finding in examine(settings) if finding.on == "primary"]
        assert finding.level == "fail"
        assert "the password had expired" in finding.finding
        assert "DATABASE_PASSWORD_COMMAND by hand" in finding.advice
        assert "first-token" not in str(finding)


EPOCH = 1_900_000_000


@pytest.mark.parametrize(
    ("printed", "answer"),
    [
        ("secret\n", "secret"),
        ("secret\r\nsecond line\n", "secret"),
        ("  with spaces \n", "  with spaces "),
        ("{no json\n", "{no json"),
        ('{"password": "secret"}', "secret"),
        (json.dumps({"token": "secret", "expires_at": EPOCH}, indent=2), ("secret", float(EPOCH))),
        (
            '{"token": "secret", "expires_at": "2030-03-17T17:46:40Z"}',
            ("secret", datetime.fromtimestamp(EPOCH, UTC)),
        ),
        (
            f'{{"accessToken": "secret", "expires_on": "{EPOCH}", "tokenType": "Bearer"}}',
            ("secret", float(EPOCH)),
        ),
    ],
)
def test_what_a_command_may_print(printed: str, answer: PasswordAnswer) -> None:
    assert read_answer(printed) == answer


def test_an_expiry_may_be_told_from_now_on() -> None:
    before = time.time()
    answer = read_answer('{"token": "secret", "expires_in": 60}')
    assert isinstance(answer, tuple)
    assert isinstance(answer[1], float)
    assert before + 60 <= answer[1] <= time.time() + 60


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("", "in its first line"),
        ("\nsecret\n", "in its first line"),
        ("sec\0ret\n", "in its first line"),
        ('{"secret": "secret"}', "one of password, token, accessToken"),
        ('{"token": ["secret"]}', "one of password"),
        ('{"token": "secret", "expires_at": "secret"}', "neither a time"),
    ],
)
def test_what_is_no_password_is_told_without_it(printed: str, said: str) -> None:
    with pytest.raises(PasswordUnavailable, match=said) as caught:
        read_answer(printed)
    assert "secret" not in str(caught.value)


class Hooked(Settings):
    """Settings of a service that gives its passwords in code."""

    async def password_for(self, host: str, port: int, user: str) -> PasswordAnswer:
        asked.append((host, port, user))
        return "first-token", time.time() + 3600


asked: list[tuple[str, int, str]] = []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("aws 'rds", "as many opening as closing quotes"),
        ("/nowhere/token --user app --key=half-a-secret", "program that this process can run"),
        ("''", "program that this process can run"),
        ("echo --host {hostname}", "{hostname} is none of {host}, {port}, {user}"),
        ("echo token | head -1", r"no shell reads it: \| goes to the program as an argument; write sh -c"),
        ("echo $TOKEN", r"no shell reads it: \$TOKEN goes"),
        ("echo token > /tmp/token", "no shell reads it: > goes"),
        ("true && echo token", "no shell reads it: && goes"),
    ],
)
def test_a_command_that_cannot_be_run_stops_the_start(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD_COMMAND", command)
    with pytest.raises(SettingsError, match=f"DATABASE_PASSWORD_COMMAND=.*{said}") as caught:
        Settings.load()
    assert "half-a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "command",
    [
        """sh -c 'echo "$TOKEN" | head -1'""",
        """sh -c "echo ${TOKEN} && true" """,
        "echo {host}:{port} --user={user} '{region}' https://vault/?a=1&b=2",
    ],
)
def test_a_command_may_have_quoted_what_shells_read(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD_COMMAND", command)
    assert Settings.load().database_password_command


def test_a_command_and_a_file_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is named. One that lies in SECRETS_DIR is passed over."""
    (tmp_path / "database_password").write_text("secret")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_PASSWORD_COMMAND", "echo token")
    assert Settings.load().database_password_file is None
    monkeypatch.setenv("DATABASE_PASSWORD_FILE", str(tmp_path / "database_password"))
    with pytest.raises(SettingsError, match="not both"):
        Settings.load()


class TestAFunctionOfTheSettings:
    async def test_is_asked_by_everything_that_connects(self, role: Role) -> None:
        asked.clear()
        settings = Hooked(database_url=role.url, database_replica_url=role.url)  # type: ignore[arg-type]
        async with Database(settings) as database:
            assert await database.fetchval("SELECT session_user") == "token_user"
            assert await database.fetchval("SELECT session_user", read=True) == "token_user"
        assert asked == [("127.0.0.1", role.server.port, "token_user")]
        async with migrating_session(settings) as connection:
            assert await connection.fetchval("SELECT session_user") == "token_user"
        assert {"first-token"} <= set(tokens_read)

    async def test_is_not_asked_where_the_environment_has_one(
        self, role: Role, postgres: PostgresServer
    ) -> None:
        asked.clear()
        for settings in (
            Hooked(database_url=postgres.dsn()),  # type: ignore[arg-type]
            Hooked(database_url=role.url, database_password_command=role.command),  # type: ignore[arg-type]
            Hooked(database_url=role.url, database_password_file=role.file),  # type: ignore[arg-type]
        ):
            async with migrating_session(settings) as connection:
                assert await connection.fetchval("SELECT 1") == 1
        assert asked == []

    async def test_may_be_that_of_one_database(self, role: Role) -> None:
        async def password(host: str, port: int, user: str) -> PasswordAnswer:
            assert (host, port, user) == ("127.0.0.1", role.server.port, "token_user")
            return "first-token"

        url = role.url.replace("token_user@", "token_user:wrong@")
        async with Database(settings_for(url), password=password) as database:
            assert await database.fetchval("SELECT session_user") == "token_user"


async def test_a_password_that_changes_all_the_time_costs_no_request(
    make_database: MakeDatabase, role: Role
) -> None:
    """Each rotation has every connection replaced; the one that is kept is refused each time."""
    database = await make_database(
        role.url,
        database_password_command=role.command,
        pool_min_size=4,
        pool_max_size=8,
        pool_queue_target=0,
    )
    served, ending = 0, False

    async def ask() -> None:
        nonlocal served
        while not ending:
            assert await database.fetchval("SELECT 1") == 1
            served += 1

    users = [asyncio.create_task(ask()) for _ in range(6)]
    stats = database.primary.stats

    async def replaced(opened: int, before: int) -> bool:
        """An attempt under way may be refused once, and not a second time by the next rotation."""
        return stats().opened >= opened + 4 and not database.primary._state.opening and served > before

    for number in range(4):
        await role.rotate(f"token-{number}")
        opened, before = stats().opened, served
        await database.primary.expire_connections()
        await eventually(partial(replaced, opened, before), 30)
    ending = True
    await asyncio.gather(*users)
    assert stats().open_failures == 0
    assert len(role.asked) >= 5
