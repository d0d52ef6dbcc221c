"""Twenty requests of half a second each, on five connections: with shedding, and without.

DATABASE_URL=postgresql://... python shedding.py
"""

import asyncio
import os
from collections import Counter
from time import perf_counter

from lifeguard import Pool, PoolSaturated

REQUESTS, CONNECTIONS, SECONDS = 20, 5, 0.5


async def ask(pool: Pool, outcomes: Counter[str]) -> None:
    began = perf_counter()
    try:
        await pool.fetchval("SELECT pg_sleep($1)", SECONDS)
    except PoolSaturated as refused:
        outcomes[f"refused ({refused.reason}) after {perf_counter() - began:.1f} s"] += 1
    else:
        outcomes[f"served after {perf_counter() - began:.1f} s"] += 1


async def outcomes_with(url: str, queue_target: float) -> Counter[str]:
    """What became of the requests, all sent at once to a pool that has served before."""
    outcomes: Counter[str] = Counter()
    async with Pool(
        url, min_size=CONNECTIONS, max_size=CONNECTIONS, acquire_timeout=10, queue_target=queue_target
    ) as pool:
        await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.1)") for _ in range(CONNECTIONS)))
        await asyncio.gather(*(ask(pool, outcomes) for _ in range(REQUESTS)))
    return outcomes


async def main() -> None:
    for queue_target in (0.25, 1.0, 0.0):
        print(f"queue_target={queue_target:g}")
        for outcome, number in sorted(
            (await outcomes_with(os.environ["DATABASE_URL"], queue_target)).items()
        ):
            print(f"  {number:2} {outcome}")


if __name__ == "__main__":
    asyncio.run(main())
