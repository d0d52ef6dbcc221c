"""Clients that write and then read with the token of their write, on a primary and a standby that is late."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from lifeguard.database import CallScope, Database, DatabaseUnavailable, call_scope
from lifeguard.pool import PoolError
from lifeguard.settings import Settings
from lifeguard.testing.servers import create_cluster, server_directory
from lifeguard.testing.standby import replication
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lifeguard.testing.standby import Replication

DELAY = 1.0
"""Seconds that the standby is behind: `recovery_min_apply_delay`."""
CLIENTS = 200
READS_OF_A_WRITE = 20
SPREAD = 2.5
"""Seconds in which a client reads what it has written, at random instants."""

_WRITE = "UPDATE counters SET n = n + 1 WHERE client = $1 RETURNING n"
_READ = "SELECT n FROM counters WHERE client = $1"


@dataclass
class Seen:
    """What the reads of a trial have found."""

    reads: int = 0
    refused: int = 0
    """Those that were not answered."""
    older: int = 0
    """Reads that did not see the write whose token they had."""
    to: Counter[str] = field(default_factory=Counter)
    """Which pool served how many."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """What became of the tokens: `Consistency.reads`."""
    seconds: list[float] = field(default_factory=list)
    """What each read took."""


@asynccontextmanager
async def pair(delay: float = DELAY) -> AsyncIterator[Replication]:
    """The servers, with a counter for each client."""
    with server_directory() as directory:
        cluster = await asyncio.to_thread(create_cluster, directory / "cluster")
        async with replication(cluster, recovery_min_apply_delay=f"{delay * 1000:.0f}ms") as servers:
            async with servers.primary.connect() as admin:
                await admin.execute(
                    "CREATE TABLE counters (client int PRIMARY KEY, n int NOT NULL);"
                    f"INSERT INTO counters SELECT client, 0 FROM generate_series(1, {CLIENTS}) client"
                )
            await servers.caught_up()
            yield servers


@asynccontextmanager
async def opened(servers: Replication) -> AsyncIterator[Database]:
    """An instance of the service, as far as its database goes, once it reads from the standby."""
    settings = Settings(
        database_url=SecretStr(servers.primary.dsn()),
        database_replica_url=SecretStr(servers.standby.dsn()),
        pool_queue_target=0,  # nobody is turned away: how long reads take is not the question
        pool_acquire_timeout=60,
    )
    async with Database(settings) as database:
        await eventually(lambda: all(guard.serves for guard in database.guards), 30)
        yield database


async def look(servers: Replication, reads: int, *, with_tokens: bool = True) -> Seen:
    """Have clients write at one instance and read at another, so many times in all."""
    seen = Seen()
    async with opened(servers) as writer, opened(servers) as reader:
        async with asyncio.TaskGroup() as clients:
            for client in range(1, CLIENTS + 1):
                share = reads // CLIENTS
                clients.create_task(_client(client, share, writer, reader, seen, with_tokens=with_tokens))
        seen.to = Counter(reader.reads)
        seen.outcomes = Counter(reader.consistency.reads)
    return seen


async def _client(
    client: int, reads: int, writer: Database, reader: Database, seen: Seen, *, with_tokens: bool
) -> None:
    while reads > 0:
        now = min(reads, READS_OF_A_WRITE)
        reads -= now
        with _call():
            async with writer.transaction() as transaction:
                written = await transaction.fetchval(_WRITE, client)
            token = writer.token() if with_tokens else None
        pauses = sorted(random.uniform(0, SPREAD) for _ in range(now))
        began = perf_counter()
        for pause in pauses:
            await asyncio.sleep(began + pause - perf_counter())
            asked = perf_counter()
            try:
                async with reader.read(after=token) as connection:
                    found = await connection.fetchval(_READ, client)
            except (PoolError, DatabaseUnavailable):
                seen.refused += 1
                continue
            seen.seconds.append(perf_counter() - asked)
            seen.reads += 1
            seen.older += found < written


@contextmanager
def _call(*, notes_writes: bool = True) -> Iterator[None]:
    token = call_scope.set(CallScope("bench", notes_writes=notes_writes))
    try:
        yield
    finally:
        call_scope.reset(token)


async def cost(servers: Replication, transactions: int, together: int) -> tuple[float, float]:
    """Microseconds of a transaction with one UPDATE, without a token and with one: medians of five runs each,
    in turn."""
    runs: tuple[list[float], list[float]] = [], []
    async with opened(servers) as database:
        for _ in range(5):
            for notes_writes, taken in enumerate(runs):
                taken.append(await _write(database, transactions, together, bool(notes_writes)))
    without, with_token = (sorted(taken)[len(taken) // 2] for taken in runs)
    return without * 1e6, with_token * 1e6


async def _write(database: Database, transactions: int, together: int, notes_writes: bool) -> float:
    async def borrower(client: int) -> None:
        for _ in range(transactions // together):
            with _call(notes_writes=notes_writes):
                async with database.transaction() as transaction:
                    await transaction.fetchval(_WRITE, client)

    began = perf_counter()
    await asyncio.gather(*map(borrower, range(1, together + 1)))
    return (perf_counter() - began) / transactions
