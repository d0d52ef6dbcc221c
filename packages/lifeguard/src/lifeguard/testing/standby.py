"""A primary and its streaming standby, with a proxy in between that can fall silent."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer, copy_cluster, server_directory
from lifeguard.testing.waiting import eventually

STANDBY = "standby"  # application_name of its receiver


@dataclass
class Replication:
    primary: PostgresServer
    standby: PostgresServer
    stream: Proxy
    """What the standby receives comes through here; `silence()` and `resume()` it."""

    async def caught_up(self) -> None:
        """Wait until the standby has replayed all that the primary has written until now."""
        async with self.primary.connect() as admin:
            written = await admin.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        async with self.standby.connect() as admin:

            async def has_replayed() -> bool:
                replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
                return bool(await admin.fetchval(replayed, written))

            await eventually(has_replayed)

    async def wait_for_standby(self, *, wait: bool = True) -> None:
        """Have every COMMIT on the primary wait for the standby, or none."""
        async with self.primary.connect() as admin:
            names = STANDBY if wait else ""
            await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            await admin.execute("SELECT pg_reload_conf()")

            async def is_synchronous() -> bool:
                query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                return bool(await admin.fetchval(query)) is wait

            await eventually(is_synchronous)

    async def fail_over(self) -> None:
        """`kill -9` the primary, with what the standby has not received, and promote the standby."""
        assert self.primary.pid is not None
        os.kill(self.primary.pid, signal.SIGKILL)
        async with self.standby.connect() as admin:
            assert await admin.fetchval("SELECT pg_promote(wait => true, wait_seconds => 30)")


@contextlib.asynccontextmanager
async def replication(cluster: Path, **parameters: str) -> AsyncIterator[Replication]:
    """Two servers made of `cluster`, the fixture; `parameters` are both servers' settings.

    The standby streams, asynchronously until `wait_for_standby()`.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(server_directory())
        paths = [copy_cluster(cluster, directory / name) for name in ("primary", STANDBY)]
        primary = PostgresServer(paths[0], parameters)
        stack.callback(primary.close)
        await primary.start()
        async with Proxy(primary.dsn()).serve() as stream:
            source = urlsplit(stream.dsn)
            standby = PostgresServer(
                paths[1],
                {
                    **parameters,
                    "primary_conninfo": f"host={source.hostname} port={source.port} user=postgres"
                    f" password={primary.password} sslmode=disable application_name={STANDBY}",
                },
            )
            stack.callback(standby.close)
            (paths[1] / "data" / "standby.signal").touch()
            await standby.start()
            pair = Replication(primary, standby, stream)
            await pair.caught_up()
            yield pair
