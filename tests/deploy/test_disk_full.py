"""The disk below the server is full (53100, or a PANIC for its WAL): users are refused, and nothing is lost.

Needs a small file system, so it needs to be allowed to mount one. What the operator does is taken from
docs/database/disk-full.md.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from fastapi import APIRouter
from lifeguard.database.migrations import upgrade
from lifeguard.development.embedded import EmbeddedServerError
from lifeguard.testing.servers import PostgresServer, copy_cluster, server_directory
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import ReadConnectionDep, TransactionDep

from deploy.documents import blocks
from tests.inside import service, settings_for
from tests.shell import Shell, access_to

pytestmark = pytest.mark.slow

SIZE = 2**20 * 40
BALLAST = 2**20 * 8
routes = APIRouter(prefix="/notes")


@routes.post("/{number}")
async def write(number: int, transaction: TransactionDep) -> int:
    await transaction.execute("INSERT INTO notes VALUES ($1, repeat('x', 1000))", number)
    return number


@routes.get("")
async def count(connection: ReadConnectionDep) -> int:
    found: int = await connection.fetchval("SELECT count(*) FROM notes")
    return found


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of `SIZE` bytes, with ballast."""
    with server_directory() as directory:
        disk = directory / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(disk)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a file system cannot be mounted here: {error}")
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S607 - util-linux


@pytest.fixture
async def server(small_disk: Path, cluster: Path) -> AsyncIterator[PostgresServer]:
    """A server beside the small disk; a test puts a part of it there."""
    path = await asyncio.to_thread(copy_cluster, cluster, small_disk.parent / "server")
    server = PostgresServer(path, {"max_wal_size": "8MB", "autovacuum": "off"})
    await server.start()
    await upgrade(settings_for(server.dsn()))
    async with server.connect() as admin:
        await admin.execute("CREATE TABLE notes (number int, text text)")
    await server.stop()
    yield server
    server.close()


def move(source: Path, disk: Path) -> None:
    """Have the server find on the disk what it looks for in its own place."""
    shutil.copystat(source, disk)
    owner = source.stat()
    os.chown(disk, owner.st_uid, owner.st_gid)
    target = copy_cluster(source, disk / source.name)
    shutil.rmtree(source)
    source.symlink_to(target)


async def operator(server: PostgresServer, disk: Path) -> tuple[Shell, dict[str, str]]:
    (disk.parent / "operator").mkdir()
    ballast = {"BALLAST": str(disk / "ballast"), "BALLAST_SIZE": str(BALLAST)}
    shell = Shell(disk.parent / "operator", access_to(server))
    await shell.run('fallocate --length "$BALLAST_SIZE" "$BALLAST"', **ballast)
    return shell, ballast


class Writer:
    """A user who writes one note after the other; what was acknowledged, and every other answer."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.acknowledged: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self._next = 0

    async def run(self) -> None:
        while True:
            self._next += 1
            answer = await self._client.post(f"/notes/{self._next}", timeout=30)
            if answer.is_success:
                self.acknowledged.append(answer.json())
            else:
                self.refused.append((answer.status_code, answer.json()["type"]))
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def writing(running: Service) -> AsyncIterator[Writer]:
    writer = Writer(running.client)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def fill(server: PostgresServer, statement: str) -> None:
    """Do it until there is no room for it, or no server."""
    with contextlib.suppress(asyncpg.PostgresError, OSError, asyncpg.InterfaceError):
        async with server.connect() as admin:
            while True:
                await admin.execute(statement)


async def goes_on(writer: Writer, running: Service) -> None:
    """Writes are acknowledged again, and none that was is missing."""
    before = len(writer.acknowledged)
    await eventually(lambda: len(writer.acknowledged) > before + 10)
    async with running.state["database"].connection() as connection:
        rows = await connection.fetch("SELECT number FROM notes")
    numbers = [row["number"] for row in rows]
    assert set(writer.acknowledged[: before + 10]) <= set(numbers)
    assert len(numbers) == len(set(numbers))


async def test_a_disk_full_of_wal_stops_the_server_and_loses_nothing(
    server: PostgresServer, small_disk: Path
) -> None:
    move(server.directory / "data" / "pg_wal", small_disk)
    shell, ballast = await operator(server, small_disk)
    make_room, look, tidy_up = blocks("disk-full.md", "What to do")
    await server.start()
    async with server.connect() as admin:  # for a standby that never comes
        await admin.execute("SELECT pg_create_physical_replication_slot('gone', true)")
    async with service(settings_for(server.dsn()), routes=routes) as running:
        await until_ready(running)
        async with writing(running) as writer:
            await eventually(lambda: writer.acknowledged)
            await fill(server, "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))")
            await eventually(lambda: writer.refused)
            await eventually(lambda: not server.running)
            with pytest.raises(EmbeddedServerError, match="No space left on device"):
                await server.start()

            await shell.run(make_room, **ballast)
            await server.start()
            await goes_on(writer, running)
        assert {status for status, _ in writer.refused} == {503}
        assert "gone" in await shell.run(look)
        async with server.connect() as admin:
            await admin.execute("SELECT pg_drop_replication_slot('gone')")
        await shell.run(tidy_up, **ballast)


async def test_a_disk_full_of_data_refuses_writes_and_serves_reads(
    server: PostgresServer, small_disk: Path
) -> None:
    move(server.directory / "data" / "base", small_disk)
    shell, ballast = await operator(server, small_disk)
    make_room, look, tidy_up = blocks("disk-full.md", "What to do")
    await server.start()
    async with service(settings_for(server.dsn()), routes=routes) as running:
        await until_ready(running)
        async with writing(running) as writer:
            await eventually(lambda: writer.acknowledged)
            async with server.connect() as admin:
                await admin.execute("CREATE TABLE filler (text text)")
            await fill(
                server, "INSERT INTO filler SELECT repeat(md5(n::text), 50) FROM generate_series(1, 100) n"
            )
            await eventually(lambda: writer.refused)
            assert set(writer.refused) == {(503, "/problems/database-unavailable")}
            assert (await running.client.get("/notes")).is_success

            await shell.run(make_room, **ballast)
            await goes_on(writer, running)
        assert {status for status, _ in writer.refused} == {503}
        assert "postgres" in await shell.run(look)
        async with server.connect() as admin:
            await admin.execute("DROP TABLE filler")
        await shell.run(tidy_up, **ballast)
