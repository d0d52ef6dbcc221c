"""The ledger over HTTP.

Reads may come from a replica, which can lag behind: a client that is to see what it has just written sends
the `X-Consistency-Token` of the answer.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Response, status
from lifeguard.web import DatabaseDep, ReadConnectionDep, problems, stale_if_error
from lifeguard.web.pages import LARGEST_ID, Cursor, Limit, Page, PathId, decode, page

from app.ledger import queries, service
from app.ledger.problems import (
    CurrencyMismatch,
    IdempotencyInProgress,
    IdempotencyMismatch,
    InsufficientFunds,
)
from app.ledger.schemas import Account, Entry, NewAccount, NewTransfer, Transfer

router = APIRouter(prefix="/v1", tags=["ledger"], responses=problems.documented(*problems.DATABASE))

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[!-~]{1,255}$",
        description="Made up by the client, one for each transfer it means: however often the request is"
        " repeated, it takes effect once.",
    ),
]
_REPLAYED = {
    "Idempotent-Replayed": {
        "description": "`true` if an earlier request with this key made the transfer.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}


@router.post(
    "/accounts",
    status_code=status.HTTP_201_CREATED,
    responses=problems.documented(*problems.WRITING, problems.Invalid),
)
async def open_account(new: NewAccount, database: DatabaseDep) -> Account:
    """Open an account; its opening balance comes from the funding account of its currency."""
    account = await database.run_in_transaction(partial(service.open_account, new=new))
    return Account.model_validate(account)


@router.get("/accounts", responses=problems.documented(problems.Invalid))
async def list_accounts(
    connection: ReadConnectionDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[Account]:
    """Accounts in the order of their ids. One whose opening commits late can appear before a cursor."""
    rows = await queries.list_accounts(connection, after=decode(cursor), limit=limit + 1)
    return page([Account.model_validate(row) for row in rows], limit)


@router.get("/accounts/{account_id}", responses=problems.documented(problems.NotFound, problems.Invalid))
async def get_account(account_id: PathId, connection: ReadConnectionDep) -> Account:
    return Account.model_validate(await service.get_account(connection, account_id))


@router.get(
    "/accounts/{account_id}/entries",
    # What is booked stays booked: an old page is true, it only ends too early. An old balance might be
    # spent a second time.
    dependencies=[stale_if_error(seconds=300)],
    responses=problems.documented(problems.NotFound, problems.Invalid),
)
async def list_entries(
    account_id: PathId, connection: ReadConnectionDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[Entry]:
    """Entries of an account, the latest first.

    While they cannot be read, the answer may be up to five minutes old; its `Age` says how old.
    """
    before = decode(cursor, first=LARGEST_ID)
    rows = await service.list_entries(connection, account_id, before=before, limit=limit + 1)
    return page([Entry.model_validate(row) for row in rows], limit)


@router.post(
    "/transfers",
    status_code=status.HTTP_201_CREATED,
    responses={
        **problems.documented(
            *problems.WRITING,
            problems.NotFound,
            problems.Invalid,
            InsufficientFunds,
            CurrencyMismatch,
            IdempotencyInProgress,
            IdempotencyMismatch,
        ),
        status.HTTP_201_CREATED: {"headers": _REPLAYED},
    },
)
async def book_transfer(
    new: NewTransfer,
    database: DatabaseDep,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Transfer:
    """Move money between two accounts of one currency."""
    work = partial(service.book_transfer, new=new, key=idempotency_key)
    booking = await database.run_in_transaction(work)
    if booking.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return Transfer.model_validate(booking.transfer)


@router.get("/transfers/{transfer_id}", responses=problems.documented(problems.NotFound, problems.Invalid))
async def get_transfer(transfer_id: PathId, connection: ReadConnectionDep) -> Transfer:
    return Transfer.model_validate(await service.get_transfer(connection, transfer_id))
