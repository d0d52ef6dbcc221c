"""What the ledger's endpoints take and give."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from lifeguard.web.pages import LARGEST_ID
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.ledger.currencies import CURRENCIES

MOST_MONEY = 2**53 - 1
"""In minor units; the largest integer that JSON carries exactly everywhere (RFC 8259, section 6)."""


def _known_currency(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError("must be the code of a currency, in capitals (ISO 4217)")
    return code


Id = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Balance = Annotated[int, Field(ge=0, le=MOST_MONEY, description="In minor units: cents of a euro.")]
Amount = Annotated[int, Field(ge=1, le=MOST_MONEY, description="In minor units: cents of a euro.")]
Currency = Annotated[
    str,
    AfterValidator(_known_currency),
    Field(description="ISO 4217.", examples=["EUR"], json_schema_extra={"enum": sorted(CURRENCIES)}),
]
# PostgreSQL has no place for U+0000 in a text.
Owner = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Memo = Annotated[str, Field(max_length=500, pattern=r"^[^\x00]*$")]


class _Request(BaseModel):
    # Strict: "10" and 10.0 are no amounts. Forbid: a misspelt field must not be silently dropped.
    model_config = ConfigDict(strict=True, extra="forbid")


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class NewAccount(_Request):
    owner: Owner
    currency: Currency
    opening_balance: Balance = 0


class Account(_Answer):
    id: Id
    owner: str
    currency: str
    balance: Balance
    created_at: datetime


class NewTransfer(_Request):
    from_account: Id
    to_account: Id
    amount: Amount
    memo: Memo = ""

    @model_validator(mode="after")
    def _between_two_accounts(self) -> Self:
        if self.from_account == self.to_account:
            raise ValueError("from_account and to_account must differ")
        return self


class Transfer(_Answer):
    id: Id
    from_account: Id
    to_account: Id
    amount: Amount
    currency: str
    memo: str
    created_at: datetime


class Entry(_Answer):
    """One side of a transfer."""

    id: Id
    transfer_id: Id
    account_id: Id
    amount: Annotated[int, Field(description="In minor units; below zero where money left.")]
    created_at: datetime
