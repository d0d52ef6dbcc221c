"""The network of `bench.strategies`: slow by chance, and true to what is sent through it."""

import asyncio
import time
from urllib.parse import urlsplit

import asyncpg

from bench.strategies.network import network_to

JITTER = 0.04
LONG = "x" * 200_000


async def test_round_trips_take_longer_by_chance_and_everything_arrives_in_order(database_url: str) -> None:
    url = urlsplit(database_url)
    with network_to(url.port or 0) as network:
        through = database_url.replace(f":{url.port}/", f":{network.port}/")
        first, second = [await asyncpg.connect(through, ssl=False) for _ in range(2)]
        assert network.set_jitter(JITTER) == 2, "connections opened"
        began = time.monotonic()
        answers = [await first.fetchval("SELECT $1::int", number) for number in range(20)]
        assert answers == list(range(20))
        assert time.monotonic() - began > 20 * JITTER / 4, "half of the jitter is the mean"
        assert await first.fetchval("SELECT $1 || $1", LONG) == LONG * 2
        await asyncio.gather(first.close(), second.close())
        assert network.set_jitter(0) == 2
