"""What of the ledger is asked: a file of its own, since a service may have deleted it."""

from app.ledger.schemas import NewAccount, NewTransfer
from app.ledger.service import book_transfer, open_account

__all__ = ["NewAccount", "NewTransfer", "book_transfer", "open_account"]
