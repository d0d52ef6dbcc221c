"""Twenty requests on five connections, once and again and again: with shedding, and without.

DATABASE_URL=postgresql://... python shedding.py
"""

import asyncio
import os
from collections import defaultdict
from time import perf_counter

from lifeguard import Pool, PoolSaturated

BURST, CONNECTIONS, SECONDS = 20, 5, 0.2


async def ask(pool: Pool, waits: dict[str, list[float]]) -> None:
    began = perf_counter()
    try:
        await pool.fetchval("SELECT pg_sleep($1)", SECONDS)
    except PoolSaturated as refused:
        waits[f"refused ({refused.reason})"].append(perf_counter() - began)
    else:
        waits["served"].append(perf_counter() - began)


async def waits_with(url: str, queue_target: float, bursts: int) -> dict[str, list[float]]:
    """How long requests took, by what became of them, on a pool that has served before."""
    waits: dict[str, list[float]] = defaultdict(list)
    async with (
        Pool(
            url, min_size=CONNECTIONS, max_size=CONNECTIONS, acquire_timeout=30, queue_target=queue_target
        ) as pool,
        asyncio.TaskGroup() as requests,
    ):
        await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(CONNECTIONS)))
        for _ in range(bursts):
            for _ in range(BURST):
                requests.create_task(ask(pool, waits))
            await asyncio.sleep(SECONDS)
    return waits


async def main() -> None:
    for bursts in (1, 15):
        for queue_target in (0.25, 0.0):
            print(f"{bursts} x {BURST}, queue_target={queue_target:g}")
            waits = await waits_with(os.environ["DATABASE_URL"], queue_target, bursts)
            for outcome, seconds in sorted(waits.items()):
                print(f"  {len(seconds):3} {outcome}, the last after {max(seconds):.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
