"""A job that a scheduler starts each night: `.venv/bin/python -m app.nightly_job`, exit code 0 or 1.

It runs once, however many have started it; it works in small transactions, so that no lock is held for long;
and it may be killed at any time: what is done stays done.
"""

import asyncio
import sys

import structlog
from lifeguard.database import Database
from lifeguard.observability import log_pool_event, logs
from lifeguard.settings import Settings  # in a service: from app.settings import Settings

_log = structlog.get_logger("app.nightly_job")

BATCH = 1000
_LOCK = 7_301_001  # any number that no other job has

_CLOSE = """
    UPDATE orders SET state = 'expired'
    WHERE id IN (
        SELECT id FROM orders
        WHERE state = 'open' AND created_at < now() - interval '30 days'
        ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id
"""


async def close_old_orders(database: Database, batch: int = BATCH) -> int | None:
    """Close what has been open for too long; how many orders, None while another one does it."""
    closed = 0
    while True:
        async with database.transaction() as transaction:
            # Held until the end of the transaction: free again whatever happens, behind PgBouncer too.
            if not await transaction.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                return None
            done = await transaction.fetch(_CLOSE, batch)
        closed += len(done)
        if len(done) < batch:
            return closed


async def main() -> int:
    settings = Settings.load()
    logs.configure(settings)
    patient = settings.model_copy(
        update={
            "service_name": "nightly-job",  # application_name at the server
            "pool_min_size": 0,
            "pool_max_size": 2,
            "pool_queue_target": 0,
            "pool_acquire_timeout": 60,  # seconds: a night is long
            "statement_timeout": 300,
            "command_timeout": 330,  # above statement_timeout, which ends the work at the server
        }
    )
    async with Database(patient, on_event=log_pool_event) as database:
        closed = await close_old_orders(database)
    if closed is None:
        _log.info("old_orders_skipped", reason="another one runs")
    else:
        _log.info("old_orders_closed", orders=closed)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
