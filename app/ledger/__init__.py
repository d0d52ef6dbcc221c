"""The example feature: accounts, transfers between them, and the entries they leave.

Delete this folder, `tests/ledger`, `migrations/versions/0001_ledger.py` and the two lines of `app/main.py`
that mount it, and a service of your own is left to begin.
"""

from app.ledger.router import router

__all__ = ["router"]
