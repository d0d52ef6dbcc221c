"""What deploy/pgbouncer/pgbouncer.ini does, with a real PgBouncer before a real server."""

import asyncio
import getpass
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from lifeguard.database.connect_options import milliseconds, session_limits
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from app.settings import Settings

pytestmark = pytest.mark.deploy

FOLDER = Path(__file__).parents[2] / "deploy/pgbouncer"
# Debian's is older than the one in the image, and would not start with these.
NEWER = r"^max_prepared_statements = .*$"


@dataclass
class PgBouncer:
    port: int
    server: PostgresServer

    async def connect(self, **server_settings: str) -> asyncpg.Connection:
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=self.server.password,
            database="ledger",
            server_settings=server_settings,
            timeout=20,
        )

    async def answers(self) -> bool:
        try:
            connection = await self.connect()
            try:
                await connection.execute("SELECT 1")  # in the simple protocol: nothing is prepared
            finally:
                await connection.close(timeout=5)
        except (asyncpg.PostgresError, OSError, TimeoutError):
            return False
        return True


@asynccontextmanager
async def pgbouncer(server: PostgresServer) -> AsyncIterator[PgBouncer]:
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert program, "needs PgBouncer (Debian: apt install pgbouncer)"
    front = PgBouncer(unused_port(), server)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # it does not stay root
        text = re.sub(NEWER, "", (FOLDER / "pgbouncer.ini").read_text(), flags=re.MULTILINE)
        for ours, theirs in (
            ("listen_addr = *", "listen_addr = 127.0.0.1"),
            ("listen_port = 6432", f"listen_port = {front.port}"),
            ("/run/secrets/userlist.txt", f"{folder}/userlist.txt"),
            ("/etc/pgbouncer/databases.ini", f"{folder}/databases.ini"),
        ):
            assert ours in text, ours
            text = text.replace(ours, theirs)
        (folder / "pgbouncer.ini").write_text(text)
        (folder / "userlist.txt").write_text(f'"postgres" "{server.password}"\n')
        where = f"ledger = host=127.0.0.1 port={server.port} dbname=postgres"
        (folder / "databases.ini").write_text(f"[databases]\n{where}\n")
        user = ["-u", "nobody"] if getpass.getuser() == "root" else []
        process = subprocess.Popen([program, "-q", *user, folder / "pgbouncer.ini"])
        try:
            await eventually(front.answers)
            yield front
        finally:
            process.kill()
            process.wait()


async def test_a_restart_of_the_server_is_over_when_the_server_is_back(server_factory: ServerFactory) -> None:
    server = await server_factory()
    async with pgbouncer(server) as front:
        await server.stop()
        attempt = asyncio.create_task(front.answers())  # its connect fails, and PgBouncer keeps it in mind
        done, _ = await asyncio.wait([attempt], timeout=0.5)
        await server.start()
        async with asyncio.timeout(10):  # of the 15 s that PgBouncer would wait by itself
            await eventually(front.answers)
        if not done:
            assert await attempt


@pytest.mark.parametrize("driver", ["service", "jdbc", "libpq"])
async def test_what_drivers_ask_for_at_connect_does_not_keep_them_out(
    postgres: PostgresServer, driver: str
) -> None:
    limits = {name: str(milliseconds(seconds)) for name, seconds in session_limits(Settings()).items()}
    asked: dict[str, dict[str, str]] = {
        "service": {"application_name": "ledger", **limits},
        "jdbc": {"extra_float_digits": "3", "application_name": "jdbc"},
        "libpq": {"options": "-c statement_timeout=5s -c lock_timeout=1s"},
    }
    async with pgbouncer(postgres) as front:
        connection = await front.connect(**asked[driver])
        await connection.execute("SELECT 1")
        await connection.close(timeout=5)


async def test_who_asks_for_another_schema_is_told_and_not_given_the_wrong_one(
    postgres: PostgresServer,
) -> None:
    async with pgbouncer(postgres) as front:
        with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter: search_path"):
            await front.connect(search_path="elsewhere")


async def test_an_option_without_a_name_stops_nobody(postgres: PostgresServer) -> None:
    """CVE-2026-107349, in versions from 1.20.0 to 1.26.0 whose list lacks `options`."""
    async with pgbouncer(postgres) as front:
        body = struct.pack("!i", 196608)
        body += b"user\0postgres\0database\0ledger\0options\0-c=\0\0"
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(struct.pack("!i", len(body) + 4) + body)
        await writer.drain()
        assert await front.answers()
        writer.close()
