"""The managed pool. It knows asyncpg and the standard library, nothing of the rest of the house."""

from lifeguard.pool.callsite import Caller, borrows_for_the_endpoint, look_through
from lifeguard.pool.config import PoolConfig
from lifeguard.pool.connector import Connector
from lifeguard.pool.driver import Isolation
from lifeguard.pool.effects import changes_session
from lifeguard.pool.errors import (
    PoolClosing,
    PoolError,
    PoolSaturated,
    PoolTimeout,
    PoolUnavailable,
    StatementNotSent,
)
from lifeguard.pool.events import DrainReport, LeaseInfo, PoolEvent
from lifeguard.pool.faults import NO_ANSWER as _NO_ANSWER
from lifeguard.pool.faults import NO_WRITABLE_SERVER as _NO_WRITABLE_SERVER
from lifeguard.pool.faults import Fault, NoHostServes, fault_of
from lifeguard.pool.lease import Lease
from lifeguard.pool.names import PRIORITIES, OutsideLane, Priority
from lifeguard.pool.pool import Pool
from lifeguard.pool.recovery import says_schema_changed
from lifeguard.pool.stats import HistogramSnapshot, LaneStats, PoolMetric, PoolStats, pool_metrics
from lifeguard.pool.writes import known_reads, what_writes

NO_ANSWER = _NO_ANSWER.name
"""The `fault` of an attempt to connect in whose time nothing was heard."""
NO_WRITABLE_SERVER = _NO_WRITABLE_SERVER.name
"""The `PoolStats.fault` of a pool that asks for a writable server and knows of none."""

__all__ = [
    "NO_ANSWER",
    "NO_WRITABLE_SERVER",
    "PRIORITIES",
    "Caller",
    "Connector",
    "DrainReport",
    "Fault",
    "HistogramSnapshot",
    "Isolation",
    "LaneStats",
    "Lease",
    "LeaseInfo",
    "NoHostServes",
    "OutsideLane",
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
    "Priority",
    "StatementNotSent",
    "borrows_for_the_endpoint",
    "changes_session",
    "fault_of",
    "known_reads",
    "look_through",
    "pool_metrics",
    "says_schema_changed",
    "what_writes",
]
