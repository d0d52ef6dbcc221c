"""This service's databases: pools, transactions, schema."""

from app.database.database import Database
from app.database.errors import (
    CommitUnknown,
    DatabaseUnavailable,
    DeadlineExceeded,
    MigrationError,
    PoolOversized,
    TransactionAborted,
)
from app.database.scope import CallScope, call_scope
from app.database.types import Connection, Isolation, ReadConnection, Transaction

__all__ = [
    "CallScope",
    "CommitUnknown",
    "Connection",
    "Database",
    "DatabaseUnavailable",
    "DeadlineExceeded",
    "Isolation",
    "MigrationError",
    "PoolOversized",
    "ReadConnection",
    "Transaction",
    "TransactionAborted",
    "call_scope",
]
