"""What every endpoint shares."""

from pathlib import Path

from lifeguard.pool import look_through
from lifeguard.web import etags, pages, problems
from lifeguard.web.body_limit import max_body
from lifeguard.web.dependencies import (
    ConnectionDep,
    DatabaseDep,
    DrainDep,
    ReadConnectionDep,
    TransactionDep,
    settings_of,
)
from lifeguard.web.lanes import lane
from lifeguard.web.plain_int import PlainInt
from lifeguard.web.stale import stale_if_error

__all__ = [
    "ConnectionDep",
    "DatabaseDep",
    "DrainDep",
    "PlainInt",
    "ReadConnectionDep",
    "TransactionDep",
    "etags",
    "lane",
    "max_body",
    "pages",
    "problems",
    "settings_of",
    "stale_if_error",
]

look_through(str(Path(__file__).parent))  # who borrows through this layer is the borrower
