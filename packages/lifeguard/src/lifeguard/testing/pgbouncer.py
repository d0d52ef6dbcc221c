"""A real PgBouncer before a real server, for tests of what goes through one."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lifeguard.development.embedded import HOST
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

PROGRAM = "PGBOUNCER"
"""The environment variable that names another program than the installed one."""
_STARTS_WITHIN = 10.0  # seconds


class NoPgBouncer(Exception):
    """There is no such program; the message says how to get one."""


def program() -> str:
    """The path of PgBouncer: what PGBOUNCER names, or the installed one. Raises NoPgBouncer."""
    name = os.environ.get(PROGRAM) or "pgbouncer"
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise NoPgBouncer(f"no program {name}: install PgBouncer (Debian: apt install pgbouncer)")
    return found


def version(program: str) -> tuple[int, ...]:
    """Such as (1, 18, 0)."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split("."))


class PgBouncer:
    """A PgBouncer that has been started; databases are those of the server behind it."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process

    def url(self, direct: str) -> str:
        """The URL by which it is reached, for one of the server's."""
        parts = urlsplit(direct)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}{HOST}:{self.port}").geturl()


@contextlib.asynccontextmanager
async def pgbouncer(
    direct: str, *, settings: Mapping[str, object] | None = None, path: str | None = None
) -> AsyncIterator[PgBouncer]:
    """One in transaction mode before the server of this URL, with its login, until the block ends.

    `settings` are those of its section `[pgbouncer]`; a value of None leaves a line out. `path` is the
    program's, else `program()`, and raises as that does.
    """
    path = path or program()
    port = unused_port()
    with tempfile.TemporaryDirectory(prefix="lifeguard-pgbouncer-") as name:
        process = await asyncio.to_thread(_start, path, port, Path(name), direct, settings or {})
        front = PgBouncer(port, process)
        try:
            await eventually(lambda: _listens(front), _STARTS_WITHIN)
            yield front
        finally:
            process.kill()
            process.wait()


def _listens(front: PgBouncer) -> bool:
    """Whether it takes connections. Nothing is sent: a login would have it connect to the server."""
    if front.process.poll() is not None:
        raise NoPgBouncer(f"PgBouncer has ended at its start: exit code {front.process.returncode}")
    with contextlib.suppress(OSError), socket.create_connection((HOST, front.port), timeout=1):
        return True
    return False


def _start(
    path: str, port: int, folder: Path, direct: str, settings: Mapping[str, object]
) -> subprocess.Popen[bytes]:
    server = urlsplit(direct)
    folder.chmod(0o755)  # it does not stay root
    lines = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": folder / "userlist.txt",
        "pool_mode": "transaction",
        **settings,
    }
    login = [unquote(part or "").replace('"', '""') for part in (server.username, server.password)]
    (folder / "userlist.txt").write_text('"{}" "{}"\n'.format(*login))
    text = f"[databases]\n* = host={server.hostname} port={server.port}\n[pgbouncer]\n"
    text += "".join(f"{name} = {value}\n" for name, value in lines.items() if value is not None)
    (folder / "pgbouncer.ini").write_text(text)
    user = ["-u", "nobody"] if getpass.getuser() == "root" else []
    return subprocess.Popen([path, "-q", *user, folder / "pgbouncer.ini"])
