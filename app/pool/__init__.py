"""The managed pool. It knows asyncpg and the standard library, nothing of the rest of the house."""

from app.pool.callsite import Caller, borrows_for_the_endpoint, look_through
from app.pool.config import PoolConfig
from app.pool.connector import Connector
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
from app.pool.faults import NO_WRITABLE_SERVER as _NO_WRITABLE_SERVER
from app.pool.faults import Fault, NoHostServes, fault_of
from app.pool.lease import Lease
from app.pool.pool import Pool
from app.pool.recovery import says_schema_changed
from app.pool.stats import HistogramSnapshot, PoolMetric, PoolStats, pool_metrics

NO_WRITABLE_SERVER = _NO_WRITABLE_SERVER.name
"""The `PoolStats.fault` of a pool that asks for a writable server and knows of none."""

__all__ = [
    "NO_WRITABLE_SERVER",
    "Caller",
    "Connector",
    "DrainReport",
    "Fault",
    "HistogramSnapshot",
    "Isolation",
    "Lease",
    "LeaseInfo",
    "NoHostServes",
    "Pool",
    "PoolClosing",
    "PoolConfig",
    "PoolError",
    "PoolEvent",
    "PoolMetric",
    "PoolSaturated",
    "PoolStats",
    "PoolTimeout",
    "PoolUnavailable",
    "StatementNotSent",
    "borrows_for_the_endpoint",
    "fault_of",
    "look_through",
    "pool_metrics",
    "says_schema_changed",
]
