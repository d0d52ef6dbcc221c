"""PostgreSQL servers that tests start, hurt and watch."""

import asyncio
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import count, cycle
from pathlib import Path

import asyncpg

from lifeguard.development.embedded import HOST, EmbeddedServer, StopMode

MEMORY = Path("/dev/shm")  # noqa: S108 - directories in it are made by tempfile
MEMORY_NEEDED = 2**31  # bytes; containers often have 64 MB
PREFIX = "lifeguard-tests-"  # of temporary directories
ADMIN = "tests-admin"  # application_name of the sessions that look after the server
PORTS = range(10_000, 32_768)  # below those that the system hands out: from 32768 on Linux, 49152 elsewhere
_database_numbers = count(1)


class PostgresServer:
    """A server whose data may be lost. Its port and data stay the same over restarts.

    What takes time is a coroutine, so that clients on the same loop see the server come and go.
    """

    def __init__(self, directory: Path, parameters: Mapping[str, str] | None = None) -> None:
        port = unused_port()
        self._server = EmbeddedServer(directory, port=port, parameters=parameters, disposable=True)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it is down."""
        return self._server.pid

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def running(self) -> bool:
        return self._server.running

    @property
    def directory(self) -> Path:
        """The cluster (`data/`), its log and its password."""
        return self._server.directory

    @property
    def password(self) -> str:
        return self._server.password

    def dsn(self, database: str = "postgres", *, user: str = "postgres", unix: bool = False) -> str:
        return self._server.dsn(database, user=user, unix=unix)

    async def start(self) -> None:
        """Start the server, if it is not running, and wait until it accepts connections."""
        await asyncio.to_thread(self._server.start)

    async def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until its port is closed."""
        await asyncio.to_thread(self._server.stop, mode)

    async def restart(self, mode: StopMode = "fast") -> None:
        await self.stop(mode)
        await self.start()

    def close(self) -> None:
        self._server.close()

    @contextlib.asynccontextmanager
    async def connect(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        """A superuser's connection that no pool knows of."""
        connection = await asyncpg.connect(
            self.dsn(database, unix=True), server_settings={"application_name": ADMIN}
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def follow(self, primary: "PostgresServer") -> None:
        """Become a streaming standby of `primary`, by starting with a copy of its data. Both restart."""
        await self.stop()
        await primary.stop()
        await asyncio.to_thread(self._take_over, primary)
        await primary.start()
        await self.start()

    def _take_over(self, primary: "PostgresServer") -> None:
        data = self.directory / "data"
        shutil.rmtree(data)
        copy_cluster(primary.directory / "data", data)
        shutil.copy2(primary.directory / "password", self.directory / "password")
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"primary_conninfo = '{primary.dsn()}'\n")
        self.make_standby()

    def make_standby(self) -> None:
        """Have the next start be a standby's."""
        data = self.directory / "data"
        signal_file = data / "standby.signal"
        signal_file.touch()
        owner = data.stat()
        os.chown(signal_file, owner.st_uid, owner.st_gid)

    async def promote(self) -> None:
        """End the recovery of a standby and wait until it takes writes."""
        async with self.connect() as admin:
            assert await admin.fetchval("SELECT pg_promote()")

    async def set(self, name: str, value: str) -> None:
        """Change a setting for all sessions, also for those that stand."""
        async with self.connect() as admin:
            await admin.execute(f"ALTER SYSTEM SET {name} = {value}")
            await admin.execute("SELECT pg_reload_conf()")

    async def create_database(self, *, template: str = "template1") -> str:
        """The name of a new database; nobody may be connected to the template."""
        name = f"test_{next(_database_numbers)}"
        await self.start()
        async with self.connect() as admin:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    async def drop_database(self, name: str) -> None:
        """Drop the database with all its sessions."""
        await self.start()
        async with self.connect() as admin:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def backends(
        self, database: str | None = None, *, application_name: str | None = None
    ) -> list[asyncpg.Record]:
        """The client sessions in `pg_stat_activity`, all columns, without the tests' own."""
        async with self.connect() as admin:
            return await admin.fetch(
                """
                SELECT * FROM pg_stat_activity
                WHERE backend_type = 'client backend' AND application_name <> $1
                  AND ($2::text IS NULL OR datname = $2)
                  AND ($3::text IS NULL OR application_name = $3)
                ORDER BY backend_start, pid
                """,
                ADMIN,
                database,
                application_name,
            )

    async def kill_backends(self, database: str | None = None, *, application_name: str | None = None) -> int:
        """End these sessions by `pg_terminate_backend`; how many there were."""
        pids = [
            session["pid"] for session in await self.backends(database, application_name=application_name)
        ]
        return await self.kill(*pids)

    async def kill(self, *pids: int) -> int:
        """End the sessions of these processes and wait until they are gone; how many there were."""
        async with self.connect() as admin:
            ended = await admin.fetch(
                "SELECT pg_terminate_backend(pid, 5000) AS ended FROM unnest($1::int[]) AS pid",
                pids,
            )
        return sum(row["ended"] for row in ended)

    def crash_backend(self, pid: int) -> None:
        """SIGKILL a backend; the server then ends all sessions and restarts itself."""
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def server_directory() -> Iterator[Path]:
    """A temporary directory for servers, in memory where there is enough of it.

    A new database is a thousand small files: ten times faster to make in memory. What runs that were killed
    have left is removed first.
    """
    place = _memory() or Path(tempfile.gettempdir())
    _remove_what_killed_runs_left(place)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as path, _in_use(Path(path)):
        yield Path(path)


def _memory() -> Path | None:
    with contextlib.suppress(OSError):
        return MEMORY if shutil.disk_usage(MEMORY).free > MEMORY_NEEDED else None
    return None


@contextlib.contextmanager
def _in_use(directory: Path) -> Iterator[None]:
    """Hold a lock on `directory`. The kernel lets go of it when this process ends, however it does."""
    unfinished = directory / "lock.new"
    with unfinished.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        unfinished.rename(directory / "lock")  # never to be seen without its holder
        yield


def _remove_what_killed_runs_left(place: Path) -> None:
    for directory in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / "lock").open() as lock:  # else it is being made
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for pid_file in directory.glob("*/data/postmaster.pid"):
                _end_orphan(pid_file)
            shutil.rmtree(directory, ignore_errors=True)


def _end_orphan(pid_file: Path) -> None:
    """End a server that has outlived its run, as it may where there is no `setpriv`."""
    pid = pid_file.read_text().partition("\n")[0]
    command = subprocess.run(["ps", "-p", pid, "-o", "args="], capture_output=True, text=True, check=False)  # noqa: S607 - POSIX
    if str(pid_file.parent) in command.stdout:  # and not another process of that number
        os.kill(int(pid), signal.SIGQUIT)


def create_cluster(directory: Path) -> Path:
    """A cluster that was never used, for `copy_cluster`: initdb is the slow part of a new server."""
    server = EmbeddedServer(directory, disposable=True)
    server.start()
    server.close()
    (directory / "port").unlink()
    return directory


def copy_cluster(cluster: Path, directory: Path) -> Path:
    """Copy with owners and permissions, as PostgreSQL insists."""
    subprocess.run(["cp", "-a", cluster, directory], check=True)  # noqa: S607 - POSIX
    return directory


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that only waits to be reaped is none."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    return state != "Z"


def _own_ports() -> Iterator[int]:
    """`PORTS` from a random one on; of these, each worker of a run has its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = PORTS[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    first = random.randrange(len(ports))
    return cycle([*ports[first:], *ports[:first]])


_ports = _own_ports()


def unused_port() -> int:
    """A port of the loopback address on which nothing listens.

    Nobody gets it by chance, so that a server which is down for a while finds it free again: no client
    (the system gives those others), no other test, and no other worker.
    """
    return next(port for port in _ports if _is_free(port))


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False
