"""This service's databases: pools, transactions, schema."""

from pathlib import Path

from app.database.breaker import Breaker, BreakerState
from app.database.database import Database
from app.database.errors import (
    CommitUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    MigrationError,
    PoolOversized,
    SchemaChanged,
    TransactionAborted,
)
from app.database.guard import Guard
from app.database.replica import ReplicaGuard
from app.database.retries import retry_idempotent
from app.database.scope import CallScope, call_scope
from app.database.transactions import confirm_reads
from app.database.types import Connection, Isolation, ReadConnection, Transaction
from app.pool import look_through

__all__ = [
    "Breaker",
    "BreakerState",
    "CallScope",
    "CommitUnknown",
    "Connection",
    "Database",
    "DatabaseUnavailable",
    "DeadlineExceeded",
    "Guard",
    "Isolation",
    "MigrationError",
    "PoolOversized",
    "ReadConnection",
    "ReplicaGuard",
    "SchemaChanged",
    "Transaction",
    "TransactionAborted",
    "call_scope",
    "confirm_reads",
    "retry_idempotent",
]

look_through(str(Path(__file__).parent))  # who borrows through this layer is the borrower
