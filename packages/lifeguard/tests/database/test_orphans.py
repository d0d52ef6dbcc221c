"""Sessions whose client fell silent, as behind a machine that lost its power or a firewall that forgot."""

import asyncio
import ctypes
import socket
import struct
import sys
from time import monotonic

import pytest
from lifeguard.pool.driver import KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, TCP_USER_TIMEOUT
from lifeguard.testing.proxy import Link, Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase

KEEPALIVE = 1
# Seconds. The kernel looks at the time without an answer whenever it sends a probe.
BOUND = KEEPALIVE + max(TCP_USER_TIMEOUT, KEEPALIVE_INTERVAL * KEEPALIVE_PROBES) + 2 * KEEPALIVE_INTERVAL

_ATTACH_FILTER = 26  # SO_ATTACH_FILTER, which Python's socket does not name
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep nothing of any packet


def fall_silent_towards_the_server(link: Link) -> None:
    """Have the kernel drop what arrives from the server, acknowledgements included; say nothing."""
    assert link.to_server is not None
    link.silence()
    code = ctypes.create_string_buffer(_DROP)
    program = struct.pack("HP", 1, ctypes.addressof(code))
    link.to_server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_FILTER")
async def test_the_server_is_rid_of_them_within_half_a_minute(
    make_database: MakeDatabase, database_url: str, postgres: PostgresServer
) -> None:
    async with Proxy(database_url).serve() as proxy:
        database = await make_database(
            proxy.dsn, service_name="orphans", pool_min_size=4, pool_keepalive=KEEPALIVE, command_timeout=100
        )
        await eventually(lambda: database.primary.get_size() == 4)

        async def work() -> None:
            async with database.connection() as connection:
                await connection.execute("SELECT pg_sleep(60)")

        async def sit() -> None:
            async with database.transaction() as transaction:
                await transaction.execute("SELECT 1")
                await asyncio.sleep(60)

        async def states() -> list[str]:
            sessions = await postgres.backends(application_name="orphans")
            return sorted(session["state"] for session in sessions)

        async def under_way() -> bool:
            return (await states()).count("active") == 1

        async def orphans() -> set[int]:
            every = await postgres.backends(database_url.rpartition("/")[2])
            return {session["pid"] for session in every} & before

        async def gone() -> bool:
            return not await orphans()

        tasks = [asyncio.create_task(work()), asyncio.create_task(sit())]
        await eventually(under_way)
        before = {session["pid"] for session in await postgres.backends(database_url.rpartition("/")[2])}
        proxy.hold_new = True
        for link in tuple(proxy.links):
            fall_silent_towards_the_server(link)
        silent_since = monotonic()
        assert len(before) == 4
        await eventually(gone, BOUND)
        assert monotonic() - silent_since > KEEPALIVE
        for task in tasks:
            task.cancel()
        database.primary.terminate()
        await asyncio.gather(*tasks, return_exceptions=True)
