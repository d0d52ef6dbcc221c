"""The managed pool. It knows asyncpg and the standard library, nothing of the rest of the house."""

from lifeguard.pool.callsite import Caller, borrows_for_the_endpoint, look_through
from lifeguard.pool.config import PoolConfig
from lifeguard.pool.connector import Connector
from lifeguard.pool.driver import Isolation, is_through_pooler
from lifeguard.pool.effects import changes_session
from lifeguard.pool.errors import (
    PoolClosing,
    PoolError,
    PoolSaturated,
    PoolTimeout,
    PoolUnavailable,
    SessionStateRefused,
    StatementNotSent,
)
from lifeguard.pool.events import DrainReport, LeaseInfo, PoolEvent
from lifeguard.pool.faults import NO_ANSWER as _NO_ANSWER
from lifeguard.pool.faults import NO_WRITABLE_SERVER as _NO_WRITABLE_SERVER
from lifeguard.pool.faults import Fault, NoHostServes, PasswordTimeout, PasswordUnavailable, fault_of
from lifeguard.pool.lease import Lease
from lifeguard.pool.names import PRIORITIES, OutsideLane, Priority
from lifeguard.pool.opener import PEERS_ATTEMPTS_A_SECOND
from lifeguard.pool.passwords import Answer as PasswordAnswer
from lifeguard.pool.passwords import PasswordByHost
from lifeguard.pool.pool import Pool
from lifeguard.pool.poolers import Pooler
from lifeguard.pool.recovery import says_schema_changed
from lifeguard.pool.session_state import may_be_in_transaction
from lifeguard.pool.stats import HistogramSnapshot, LaneStats, PoolMetric, PoolStats, pool_metrics
from lifeguard.pool.writes import known_reads, what_writes

NO_ANSWER = _NO_ANSWER.name
"""The `fault` of an attempt to connect in whose time nothing was heard."""
NO_WRITABLE_SERVER = _NO_WRITABLE_SERVER.name
"""The `PoolStats.fault` of a pool that asks for a writable server and knows of none."""

__all__ = [
    "NO_ANSWER",
    "NO_WRITABLE_SERVER",
    "PEERS_ATTEMPTS_A_SECOND",
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
    "PasswordAnswer",
    "PasswordByHost",
    "PasswordTimeout",
    "PasswordUnavailable",
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
    "Pooler",
    "Priority",
    "SessionStateRefused",
    "StatementNotSent",
    "borrows_for_the_endpoint",
    "changes_session",
    "fault_of",
    "is_through_pooler",
    "known_reads",
    "look_through",
    "may_be_in_transaction",
    "pool_metrics",
    "says_schema_changed",
    "what_writes",
]
