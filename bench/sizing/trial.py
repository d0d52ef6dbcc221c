"""The ledger's service in this process: how much it books with each pool, and what it says of itself."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lifeguard.database.migrations import upgrade
from lifeguard.development.embedded import EmbeddedServer
from lifeguard.operations.sizing import Observed, observe
from lifeguard.testing.serving import serving

from app.main import create_app
from app.settings import Settings
from bench.sizing.bookings import NewAccount, NewTransfer, book_transfer, open_account

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from lifeguard.database import Database, Transaction

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
CLIENTS = 48
"""More than the largest pool: each asks again as soon as it is done."""
ACCOUNTS = 500
SEEDED = 20_000
"""Transfers that are there before."""
WARM_UP = 0.5
"""Seconds of each turn that do not count."""
MOST_UNDER_WAY = 2000
"""Transfers of the open loop; above it the load was no load that could be carried."""

SEED = """
WITH moved AS (
    INSERT INTO transfers (from_account, to_account, amount, currency, memo)
    SELECT ids[1 + n % cardinality(ids)], ids[1 + (n + 1) % cardinality(ids)], 1, 'EUR', 'seed'
      FROM (SELECT array_agg(id ORDER BY id) AS ids FROM accounts WHERE NOT is_funding) AS known,
           generate_series(0, $1::int - 1) AS n
    RETURNING id, from_account, to_account, amount
)
INSERT INTO entries (transfer_id, account_id, amount)
SELECT moved.id, side.account_id, side.amount
  FROM moved, LATERAL (VALUES (from_account, -amount), (to_account, amount)) AS side (account_id, amount)
"""
# The rule that entries sum to zero, on as many of them however many are booked meanwhile: it takes some
# milliseconds of a processor.
AUDIT = "SELECT sum(amount) FROM entries WHERE id <= $1"


@dataclass(frozen=True, slots=True)
class Turn:
    """One size, in one round."""

    size: int
    round: int
    per_second: float
    """Transfers."""


@contextmanager
def durable_postgres() -> Iterator[EmbeddedServer]:
    """A fresh server with PostgreSQL's own settings, fsync among them."""
    with (
        TemporaryDirectory(prefix="bench-") as directory,
        EmbeddedServer(Path(directory), parameters={"max_connections": "100"}) as server,
    ):
        yield server


class Demo:
    """The service and its ledger."""

    def __init__(self, url: str, database: Database, accounts: list[int]) -> None:
        self.url = url
        """Where it listens."""
        self._database = database
        self._accounts = accounts
        self._random = random.Random(1)
        self.booked = 0

    async def turn(self, size: int, round_: int, seconds: float) -> Turn:
        """Book with a pool of this size as fast as it goes."""
        await self._database.primary.resize(min_size=size, max_size=size)
        clients = [asyncio.create_task(self._book_on()) for _ in range(CLIENTS)]
        try:
            await asyncio.sleep(WARM_UP)
            begin, before = time.perf_counter(), self.booked
            await asyncio.sleep(seconds)
            per_second = (self.booked - before) / (time.perf_counter() - begin)
        finally:
            await _ended(clients)
        return Turn(size, round_, per_second)

    async def observed(self, rate: float, size: int, seconds: float) -> Observed:
        """Book so many a second, at random times, with a pool of this size; what its pages say of that."""
        await self._database.primary.resize(min_size=1, max_size=size)
        load = asyncio.create_task(self._arrive(rate))
        try:
            await asyncio.sleep(WARM_UP)
            return await asyncio.to_thread(observe, self.url, seconds)
        finally:
            await _ended([load])

    async def _arrive(self, rate: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as transfers:
            under_way: set[asyncio.Task[None]] = set()
            while True:
                due += self._random.expovariate(rate)
                await asyncio.sleep(max(0, due - loop.time()))
                if len(under_way) >= MOST_UNDER_WAY:
                    raise RuntimeError(f"{rate:.0f} transfers a second are more than it can book")
                transfer = transfers.create_task(self._book())
                under_way.add(transfer)
                transfer.add_done_callback(under_way.discard)

    async def _book_on(self) -> None:
        while True:
            await self._book()

    async def _book(self) -> None:
        source, target = self._random.sample(self._accounts, 2)
        new = NewTransfer(from_account=source, to_account=target, amount=1, memo="bench")
        await self._database.run_in_transaction(partial(_transfer, new))
        self.booked += 1


async def _transfer(new: NewTransfer, transaction: Transaction) -> None:
    await book_transfer(transaction, new, None)
    if await transaction.fetchval(AUDIT, 2 * SEEDED) != 0:
        raise AssertionError("the entries of a ledger sum to zero")


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


@asynccontextmanager
async def demo(server: EmbeddedServer) -> AsyncIterator[Demo]:
    """A service that refuses nobody: what a pool can do is asked, not what it turns away."""
    settings = Settings.model_validate(
        {
            "database_url": server.dsn(),
            "pool_queue_target": 0,
            "pool_acquire_timeout": 60,
            "pool_max_waiting": 10_000,
            "log_level": "error",
        }
    )
    await upgrade(settings)
    async with serving(create_app(settings)) as service:
        database = service.state["database"]
        accounts = await _accounts(database)
        yield Demo(str(service.client.base_url), database, accounts)


async def _accounts(database: Database) -> list[int]:
    ids = []
    for number in range(ACCOUNTS):
        new = NewAccount(owner=f"owner {number}", currency="EUR", opening_balance=1_000_000)
        ids.append((await database.run_in_transaction(partial(open_account, new=new))).id)
    await database.execute("DELETE FROM entries")  # what the audit is about begins here
    await database.execute("ALTER TABLE entries ALTER COLUMN id RESTART")
    async with database.transaction() as transaction:
        await transaction.execute(SEED, SEEDED)
    await database.execute("VACUUM ANALYZE")
    return ids
