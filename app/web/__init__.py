"""What every endpoint shares."""

from app.web import problems
from app.web.dependencies import ConnectionDep, DatabaseDep, ReadConnectionDep, TransactionDep
from app.web.stale import stale_if_error

__all__ = [
    "ConnectionDep",
    "DatabaseDep",
    "ReadConnectionDep",
    "TransactionDep",
    "problems",
    "stale_if_error",
]
