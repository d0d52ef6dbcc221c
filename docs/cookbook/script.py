"""A script on the service's settings and database: `.venv/bin/python -m app.script 30`."""

import asyncio
import sys

from lifeguard.database import Database
from lifeguard.observability import log_pool_event, logs
from lifeguard.settings import Settings  # in a service: from app.settings import Settings


async def count_old(database: Database, days: int) -> int:
    """How many orders have been open for more than `days` days."""
    count: int = await database.fetchval(
        "SELECT count(*) FROM orders WHERE state = 'open' AND created_at < now() - make_interval(days => $1)",
        days,
        read=True,  # from the replica, where there is one
    )
    return count


async def main(days: int) -> None:
    settings = Settings.load()  # DATABASE_URL and the others, as the service reads them
    # A script needs no connections in reserve, and nobody whom it could serve by turning work away.
    alone = settings.model_copy(
        update={"pool_min_size": 0, "pool_max_size": 1, "pool_queue_target": 0, "service_name": "count-old"}
    )
    logs.configure(alone, stream=sys.stderr)  # standard output is for what it prints
    async with Database(alone, on_event=log_pool_event) as database:
        sys.stdout.write(f"{await count_old(database, days)}\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
