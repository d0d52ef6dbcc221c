"""The managed pool. It knows asyncpg and the standard library, nothing of the rest of the house."""

from app.pool.connect import Connector
from app.pool.driver import Isolation
from app.pool.errors import (
    PoolClosing,
    PoolError,
    PoolSaturated,
    PoolTimeout,
    PoolUnavailable,
    StatementNotSent,
)
from app.pool.events import DrainReport, LeaseInfo, PoolEvent
from app.pool.lease import Lease
from app.pool.places import look_through
from app.pool.pool import Pool
from app.pool.stats import HistogramSnapshot, PoolStats

__all__ = [
    "Connector",
    "DrainReport",
    "HistogramSnapshot",
    "Isolation",
    "Lease",
    "LeaseInfo",
    "Pool",
    "PoolClosing",
    "PoolError",
    "PoolEvent",
    "PoolSaturated",
    "PoolStats",
    "PoolTimeout",
    "PoolUnavailable",
    "StatementNotSent",
    "look_through",
]
