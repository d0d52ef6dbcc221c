"""A failover behind a real HAProxy, which leads to whoever calls itself the primary, as Patroni's do."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from lifeguard.pool import Pool
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import on_ports
from packages.lifeguard.tests.pool.conftest import MakePool

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(not HAPROXY, reason="needs HAProxy (Debian: apt install haproxy)")
LONG: dict[str, object] = {"connect_timeout": 60, "acquire_timeout": 60, "outage_patience": 60}
# A client whose server is gone has no answer for longer than a test takes; 2 retries and a timeout of 4 s are
# usual, which is 12 s where packets vanish.
_CONFIGURATION = """\
defaults
 mode tcp
 retries 60
 timeout client 30m
 timeout connect 4s
 timeout server 30m
listen primary
 bind 127.0.0.1:{port}
 option httpchk OPTIONS /primary
 http-check expect status 200
 default-server inter 100ms fall 2 rise 1 {ends}
"""


class Cluster:
    """Two servers, who is told to lead, and what tells HAProxy so."""

    def __init__(self, primary: PostgresServer, standby: PostgresServer) -> None:
        self.primary = primary
        self.standby = standby
        self.leader = primary
        self.asked: list[PostgresServer] = []
        """Whose role was asked for, each time."""

    @asynccontextmanager
    async def answering(self, server: PostgresServer) -> AsyncIterator[int]:
        """What stands for its Patroni."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            self.asked.append(server)
            writer.write(b"HTTP/1.0 %d -\r\n\r\n" % (200 if server is self.leader else 503))
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]

    async def fail_over(self) -> None:
        """The standby takes writes, and then HAProxy is told."""
        await self.standby.promote()
        self.leader = self.standby


@pytest.fixture
async def servers(server_factory: ServerFactory) -> Cluster:
    primary, standby = await server_factory(), await server_factory()
    async with primary.connect() as admin:
        await admin.execute("CREATE TABLE written (at timestamptz DEFAULT now())")
    await standby.follow(primary)
    return Cluster(primary, standby)


Front = Callable[[str], AbstractAsyncContextManager[str]]


@pytest.fixture
def haproxy(servers: Cluster, tmp_path: Path) -> Front:
    """`async with haproxy(ends) as dsn`; `ends` is what becomes of sessions to a server that is down."""

    @asynccontextmanager
    async def run(ends: str) -> AsyncIterator[str]:
        assert HAPROXY
        port = unused_port()
        text = _CONFIGURATION.format(port=port, ends=ends)
        async with AsyncExitStack() as stack:
            for server in (servers.primary, servers.standby):
                told = await stack.enter_async_context(servers.answering(server))
                text += f" server s{server.port} 127.0.0.1:{server.port} check port {told}\n"
            (tmp_path / "haproxy.cfg").write_text(text)
            process = subprocess.Popen([HAPROXY, "-db", "-f", tmp_path / "haproxy.cfg"])
            stack.callback(process.wait)
            stack.callback(process.kill)
            await eventually(lambda: servers.asked.count(servers.standby) > 2)  # it is known to be none
            yield on_ports(servers.primary, port)

    return run


async def write(pool: Pool) -> int:
    """Write, and say where."""
    port: int = await pool.fetchval("INSERT INTO written DEFAULT VALUES RETURNING inet_server_port()")
    return port


async def writes_to(pool: Pool, server: PostgresServer) -> bool:
    try:
        return await write(pool) == server.port
    except (asyncpg.ReadOnlySQLTransactionError, asyncpg.PostgresConnectionError):
        return False  # refused by the old one, or ended by HAProxy


async def test_a_crash_behind_it_is_waited_out_and_writes_reach_the_promoted_server(
    make_pool: MakePool, servers: Cluster, haproxy: Front
) -> None:
    async with haproxy("on-marked-down shutdown-sessions") as dsn:
        pool = await make_pool(dsn, min_size=2, max_size=2, target_session_attrs="read-write", **LONG)
        assert await write(pool) == servers.primary.port
        assert servers.primary.pid
        os.kill(servers.primary.pid, signal.SIGKILL)
        await eventually(lambda: pool.get_size() == 0)
        writing = asyncio.create_task(write(pool))
        await servers.fail_over()
        assert await writing == servers.standby.port
        await pool.drain(1)


async def has_left(pool: Pool, server: PostgresServer) -> bool:
    return not await server.backends(application_name=pool.name)


@pytest.mark.parametrize("ends", ["", "on-marked-down shutdown-sessions"])
async def test_a_demoted_server_behind_it_is_left_and_never_written_to(
    make_pool: MakePool, servers: Cluster, haproxy: Front, ends: str
) -> None:
    async with haproxy(ends) as dsn:
        pool = await make_pool(dsn, min_size=2, max_size=2, target_session_attrs="read-write", **LONG)
        assert await write(pool) == servers.primary.port
        await servers.primary.set("default_transaction_read_only", "on")
        await servers.fail_over()
        await eventually(lambda: writes_to(pool, servers.standby))
        for _ in range(4):
            assert await write(pool) == servers.standby.port
        await eventually(lambda: has_left(pool, servers.primary))
        await pool.drain(1)
