"""This service's databases: pools, transactions, schema."""

from pathlib import Path

from lifeguard.database.breaker import Breaker, BreakerState
from lifeguard.database.database import Database
from lifeguard.database.errors import (
    CommitUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    InvalidToken,
    MigrationError,
    PoolOversized,
    SchemaChanged,
    TransactionAborted,
    WriteRefused,
)
from lifeguard.database.fleet_watch import FleetReport
from lifeguard.database.guard import Guard
from lifeguard.database.lag import Standing
from lifeguard.database.lane_watch import LaneReport, Sessions
from lifeguard.database.passwords import PasswordHook
from lifeguard.database.position import Position
from lifeguard.database.replica import Replica
from lifeguard.database.retries import retry_idempotent
from lifeguard.database.scope import CallScope, call_scope
from lifeguard.database.transactions import confirm_reads
from lifeguard.database.types import Connection, Isolation, ReadConnection, Transaction
from lifeguard.pool import look_through

__all__ = [
    "Breaker",
    "BreakerState",
    "CallScope",
    "CommitUnknown",
    "Connection",
    "Database",
    "DatabaseUnavailable",
    "DeadlineExceeded",
    "FleetReport",
    "Guard",
    "InvalidToken",
    "Isolation",
    "LaneReport",
    "MigrationError",
    "PasswordHook",
    "PoolOversized",
    "Position",
    "ReadConnection",
    "Replica",
    "SchemaChanged",
    "Sessions",
    "Standing",
    "Transaction",
    "TransactionAborted",
    "WriteRefused",
    "call_scope",
    "confirm_reads",
    "retry_idempotent",
]

look_through(str(Path(__file__).parent))  # who borrows through this layer is the borrower
