"""The rules of the ledger.

Double entry: every transfer, the opening of an account included, writes an entry that takes and one
that gives, so the entries of a currency always sum to zero. A balance is what its entries sum to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import asyncpg
from lifeguard.database import ReadConnection, Transaction, confirm_reads
from lifeguard.web.problems import Invalid, NotFound

from app.ledger import queries
from app.ledger.problems import (
    CurrencyMismatch,
    IdempotencyInProgress,
    IdempotencyMismatch,
    InsufficientFunds,
)
from app.ledger.queries import Account, Entry, Transfer
from app.ledger.schemas import MOST_MONEY, NewAccount, NewTransfer


@dataclass(frozen=True, slots=True)
class Booking:
    transfer: Transfer
    replayed: bool
    """It was made by an earlier request with the same key."""


async def open_account(transaction: Transaction, new: NewAccount) -> Account:
    """Open an account: three round trips, BEGIN and COMMIT among them; five for the first of a currency."""
    account = await queries.open_account(transaction, new.owner, new.currency, new.opening_balance)
    if account is None:
        await queries.open_funding_account(transaction, new.currency)
        account = await queries.open_account(transaction, new.owner, new.currency, new.opening_balance)
    if account is None:
        raise AssertionError("a funding account is never deleted")
    return account


async def book_transfer(transaction: Transaction, new: NewTransfer, key: str | None) -> Booking:
    """Move money: four round trips, BEGIN and COMMIT among them; five with a key, four for a replay.

    A refused transfer is not remembered under its key; the same request may succeed later.
    """
    if key is not None:
        claim = await queries.claim_key(transaction, key, lock_number(key))
        if claim.transfer is not None:
            replayed = _checked_replay(claim.transfer, new)
            await confirm_reads(transaction)  # to say that it is done is to promise that it stays
            return Booking(replayed, replayed=True)
        if not claim.granted:
            raise IdempotencyInProgress("Repeat the request when the first one has been answered.")
    accounts = await queries.lock_accounts(transaction, (new.from_account, new.to_account))
    source = _existing(accounts.get(new.from_account), new.from_account)
    target = _existing(accounts.get(new.to_account), new.to_account)
    _check(source, target, new.amount)
    try:
        transfer = await queries.book_transfer(
            transaction, source, target, new.amount, memo=new.memo, key=key
        )
    except asyncpg.UniqueViolationError as error:
        # The first request committed after our look at the key and before our lock on it.
        raise IdempotencyInProgress("Repeat the request to learn what the first one did.") from error
    return Booking(transfer, replayed=False)


async def get_account(connection: ReadConnection, account_id: int) -> Account:
    return _existing(await queries.find_account(connection, account_id), account_id)


async def get_transfer(connection: ReadConnection, transfer_id: int) -> Transfer:
    transfer = await queries.find_transfer(connection, transfer_id)
    if transfer is None:
        raise NotFound(f"There is no transfer {transfer_id}.")
    return transfer


async def list_entries(
    connection: ReadConnection, account_id: int, *, before: int, limit: int
) -> list[Entry]:
    """Give a page, the latest entry first: one round trip, two where there is nothing on it."""
    entries = await queries.list_entries(connection, account_id, before=before, limit=limit)
    if not entries:
        await get_account(connection, account_id)
    return entries


def lock_number(key: str) -> int:
    """Give the number by which PostgreSQL locks an idempotency key; for all instances the same."""
    digest = hashlib.sha256(b"transfer:" + key.encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _existing(account: Account | None, account_id: int) -> Account:
    if account is None:
        raise NotFound(f"There is no account {account_id}.")
    return account


def _check(source: Account, target: Account, amount: int) -> None:
    if source.currency != target.currency:
        raise CurrencyMismatch(
            f"Account {source.id} is in {source.currency}, account {target.id} in {target.currency}."
        )
    if source.balance < amount:
        raise InsufficientFunds(
            f"Account {source.id} has {source.balance}, the transfer takes {amount}.",
            account=source.id,
            balance=source.balance,
        )
    if target.balance + amount > MOST_MONEY:
        raise Invalid(f"Account {target.id} cannot hold more than {MOST_MONEY}.")


def _checked_replay(done: Transfer, new: NewTransfer) -> Transfer:
    first = (done.from_account, done.to_account, done.amount, done.memo)
    if first != (new.from_account, new.to_account, new.amount, new.memo):
        raise IdempotencyMismatch("The key belongs to a transfer with other values.")
    return done
