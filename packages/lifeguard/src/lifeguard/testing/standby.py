"""A primary and its streaming standbys, with a proxy in between that can fall silent."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
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
    """The first one."""
    stream: Proxy
    """What the standbys receive comes through here; `silence()` and `resume()` it."""
    standbys: list[PostgresServer] = field(default_factory=list)
    """All of them."""

    async def caught_up(self) -> None:
        """Wait until the standbys have replayed all that the primary has written until now."""
        async with self.primary.connect() as admin:
            written = await admin.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        for standby in self.standbys:
            async with standby.connect() as session:

                async def has_replayed() -> bool:
                    replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
                    return bool(await session.fetchval(replayed, written))

                await eventually(has_replayed, 10)

    async def replay(self, *, paused: bool) -> None:
        """Have the standby replay nothing until it is resumed; it goes on to receive, and to serve reads."""
        async with self.standby.connect() as admin:
            await admin.execute(f"SELECT pg_wal_replay_{'pause' if paused else 'resume'}()")
            wanted = "paused" if paused else "not paused"

            async def is_so() -> bool:
                return bool(await admin.fetchval("SELECT pg_get_wal_replay_pause_state()") == wanted)

            await eventually(is_so)

    async def wait_for_standby(self, *, wait: bool = True) -> None:
        """Have every COMMIT on the primary wait for a standby, or none."""
        async with self.primary.connect() as admin:
            names = STANDBY if wait else ""
            await admin.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
            await admin.execute("SELECT pg_reload_conf()")

            async def is_synchronous() -> bool:
                query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
                return bool(await admin.fetchval(query)) is wait

            await eventually(is_synchronous)

    async def fail_over(self) -> None:
        """`kill -9` the primary, with what the standbys have not received, and promote the first of them."""
        assert self.primary.pid is not None
        os.kill(self.primary.pid, signal.SIGKILL)
        async with self.standby.connect() as admin:
            assert await admin.fetchval("SELECT pg_promote(wait => true, wait_seconds => 30)")


def standby_of(primary: str, directory: Path, **parameters: str) -> PostgresServer:
    """A standby that streams from the server of this URL, made of the cluster in `directory`, which is a copy
    of the one that the primary was made of. It is not started."""
    source = urlsplit(primary)
    standby = PostgresServer(
        directory,
        {
            **parameters,
            "primary_conninfo": f"host={source.hostname} port={source.port} user={source.username}"
            f" password={source.password} sslmode=disable application_name={STANDBY}",
        },
    )
    (directory / "data" / "standby.signal").touch()
    return standby


@contextlib.asynccontextmanager
async def replication(cluster: Path, *, standbys: int = 1, **parameters: str) -> AsyncIterator[Replication]:
    """So many servers and one more, made of `cluster`, the fixture; `parameters` are all servers' settings.

    The standbys stream, asynchronously until `wait_for_standby()`.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(server_directory())
        primary = PostgresServer(copy_cluster(cluster, directory / "primary"), parameters)
        stack.callback(primary.close)
        copies = [copy_cluster(cluster, directory / f"{STANDBY}{n or ''}") for n in range(standbys)]
        await primary.start()
        async with Proxy(primary.dsn()).serve() as stream:
            servers = [standby_of(stream.dsn, copy, **parameters) for copy in copies]
            for server in servers:
                stack.callback(server.close)
                await server.start()
            together = Replication(primary, servers[0], stream, servers)
            await together.caught_up()
            yield together
