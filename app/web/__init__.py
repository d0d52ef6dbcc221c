"""What every endpoint shares."""

from pathlib import Path

from app.pool import look_through
from app.web import problems
from app.web.body_limit import max_body
from app.web.dependencies import ConnectionDep, DatabaseDep, DrainDep, ReadConnectionDep, TransactionDep
from app.web.numbers import PlainInt
from app.web.stale import stale_if_error

__all__ = [
    "ConnectionDep",
    "DatabaseDep",
    "DrainDep",
    "PlainInt",
    "ReadConnectionDep",
    "TransactionDep",
    "max_body",
    "problems",
    "stale_if_error",
]

look_through(str(Path(__file__).parent))  # who borrows through this layer is the borrower
