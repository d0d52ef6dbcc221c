"""What every endpoint shares."""

from app.web import problems
from app.web.dependencies import ConnectionDep, DatabaseDep, ReadConnectionDep, TransactionDep

__all__ = ["ConnectionDep", "DatabaseDep", "ReadConnectionDep", "TransactionDep", "problems"]
