"""All SQL of the ledger, and the types of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from lifeguard.database import ReadConnection, Transaction


@dataclass(frozen=True, slots=True)
class Account:
    id: int
    owner: str
    currency: str
    balance: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Transfer:
    id: int
    from_account: int
    to_account: int
    amount: int
    currency: str
    memo: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    id: int
    transfer_id: int
    account_id: int
    amount: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """Of an idempotency key."""

    granted: bool
    """Nobody else is using the key, and nobody will until this transaction ends."""
    transfer: Transfer | None
    """What was done under the key before."""


_FIND_ACCOUNT = """
SELECT id, owner, currency, balance, created_at FROM accounts
 WHERE id = $1 AND NOT is_funding
"""

_LIST_ACCOUNTS = """
SELECT id, owner, currency, balance, created_at FROM accounts
 WHERE id > $1 AND NOT is_funding
 ORDER BY id LIMIT $2
"""

_LIST_ENTRIES = """
SELECT id, transfer_id, account_id, amount, created_at FROM entries
 WHERE account_id = $1 AND id < $2
   AND EXISTS (SELECT FROM accounts WHERE accounts.id = $1 AND NOT is_funding)
 ORDER BY id DESC LIMIT $3
"""

_FIND_TRANSFER = """
SELECT id, from_account, to_account, amount, currency, memo, created_at FROM transfers
 WHERE id = $1
"""

# Gives no row, and does nothing, while the currency has no funding account.
_OPEN_ACCOUNT = """
WITH funding AS (
    SELECT id FROM accounts WHERE is_funding AND currency = $2
), account AS (
    INSERT INTO accounts (owner, currency, balance)
    SELECT $1, $2, $3::bigint FROM funding
    RETURNING id, owner, currency, balance, created_at
), opening AS (
    INSERT INTO transfers (from_account, to_account, amount, currency, memo)
    SELECT funding.id, account.id, account.balance, account.currency, 'opening balance'
      FROM funding, account WHERE account.balance > 0
    RETURNING id, from_account, to_account, amount
), booked AS (
    INSERT INTO entries (transfer_id, account_id, amount)
    SELECT opening.id, side.account_id, side.amount
      FROM opening, LATERAL (VALUES (from_account, -amount), (to_account, amount))
           AS side (account_id, amount)
)
SELECT * FROM account
"""

_OPEN_FUNDING_ACCOUNT = """
INSERT INTO accounts (is_funding, owner, currency) VALUES (true, 'funding', $1)
ON CONFLICT (currency) WHERE is_funding DO NOTHING
"""

# The lock ends with the transaction, also when its session dies, and nobody waits for it.
_CLAIM_KEY = """
SELECT pg_try_advisory_xact_lock($2) AS granted,
       id, from_account, to_account, amount, currency, memo, created_at
  FROM (VALUES ($1)) AS wanted (key)
  LEFT JOIN transfers ON idempotency_key = wanted.key
"""

# In the order of their ids, whichever way the money goes: opposite transfers cannot deadlock.
# NO KEY: entries that refer to the accounts may be written meanwhile.
_LOCK_ACCOUNTS = """
SELECT id, owner, currency, balance, created_at FROM accounts
 WHERE id = ANY ($1::bigint[]) AND NOT is_funding
 ORDER BY id FOR NO KEY UPDATE
"""

_BOOK_TRANSFER = """
WITH transfer AS (
    INSERT INTO transfers (from_account, to_account, amount, currency, memo, idempotency_key)
    VALUES ($1, $2, $3, $4, $5, $6)
    RETURNING id, from_account, to_account, amount, currency, memo, created_at
), sides AS (
    SELECT transfer.id AS transfer_id, side.account_id, side.amount
      FROM transfer, LATERAL (VALUES (from_account, -amount), (to_account, amount))
           AS side (account_id, amount)
), booked AS (
    INSERT INTO entries (transfer_id, account_id, amount)
    SELECT transfer_id, account_id, amount FROM sides
), balances AS (
    UPDATE accounts SET balance = balance + sides.amount FROM sides
     WHERE accounts.id = sides.account_id
)
SELECT * FROM transfer
"""


async def find_account(connection: ReadConnection, account_id: int) -> Account | None:
    row = await connection.fetchrow(_FIND_ACCOUNT, account_id)
    return Account(**row) if row else None


async def list_accounts(connection: ReadConnection, *, after: int, limit: int) -> list[Account]:
    """Accounts in the order they were opened, beginning after an id."""
    rows = await connection.fetch(_LIST_ACCOUNTS, after, limit)
    return [Account(**row) for row in rows]


async def list_entries(
    connection: ReadConnection, account_id: int, *, before: int, limit: int
) -> list[Entry]:
    """Entries of an account, the latest first, beginning before an id."""
    rows = await connection.fetch(_LIST_ENTRIES, account_id, before, limit)
    return [Entry(**row) for row in rows]


async def find_transfer(connection: ReadConnection, transfer_id: int) -> Transfer | None:
    row = await connection.fetchrow(_FIND_TRANSFER, transfer_id)
    return Transfer(**row) if row else None


async def open_account(transaction: Transaction, owner: str, currency: str, balance: int) -> Account | None:
    """A new account with its opening balance booked; None if the currency has no funding account."""
    row = await transaction.fetchrow(_OPEN_ACCOUNT, owner, currency, balance)
    return Account(**row) if row else None


async def open_funding_account(transaction: Transaction, currency: str) -> None:
    """Do it unless it is there; whoever does it at the same moment is waited for."""
    await transaction.execute(_OPEN_FUNDING_ACCOUNT, currency)


async def claim_key(transaction: Transaction, key: str, lock: int) -> Claim:
    """See whether `key` was used before, and keep others from using it; `lock` is its number."""
    row = await transaction.fetchrow(_CLAIM_KEY, key, lock)
    if row is None:
        raise AssertionError("a left join keeps its left side")
    granted, *done = row.values()
    return Claim(granted, Transfer(*done) if row["id"] is not None else None)


async def lock_accounts(transaction: Transaction, ids: Sequence[int]) -> dict[int, Account]:
    """Those that exist, by id; they stay as they are until this transaction ends."""
    rows = await transaction.fetch(_LOCK_ACCOUNTS, ids)
    return {row["id"]: Account(**row) for row in rows}


async def book_transfer(
    transaction: Transaction,
    source: Account,
    target: Account,
    amount: int,
    *,
    memo: str,
    key: str | None,
) -> Transfer:
    """Write the transfer with its two entries, and move the balances of the locked accounts."""
    row = await transaction.fetchrow(_BOOK_TRANSFER, source.id, target.id, amount, source.currency, memo, key)
    if row is None:
        raise AssertionError("an INSERT with RETURNING gives its row")
    return Transfer(**row)
