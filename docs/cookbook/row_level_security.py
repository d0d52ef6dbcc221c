"""Row-level security: all tenants in one table, of which a transaction sees one tenant's rows."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from lifeguard.database import Transaction
from lifeguard.web import TransactionDep, problems
from pydantic import BaseModel, Field

TenantName = Annotated[str, Header(alias="X-Tenant", min_length=1, max_length=100)]
"""Here from a header, to be short. In a service it is a claim of the user's token: see bearer_tokens.py."""


async def own_rows(name: TenantName, transaction: TransactionDep) -> AsyncIterator[Transaction]:
    # true: until the end of the transaction. Nothing of it is left for the next borrower of the connection.
    await transaction.execute("SELECT set_config('app.tenant', $1, true)", name)
    yield transaction


OwnRowsDep = Annotated[Transaction, Depends(own_rows, scope="function")]


class Document(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


router = APIRouter(prefix="/documents", responses=problems.documented(*problems.WRITING))


@router.get("")
async def documents(transaction: OwnRowsDep) -> list[Document]:
    rows = await transaction.fetch("SELECT text FROM documents ORDER BY id LIMIT 100")  # no WHERE to forget
    return [Document(**row) for row in rows]


@router.post("", status_code=201)
async def add(document: Document, transaction: OwnRowsDep) -> Document:
    await transaction.execute("INSERT INTO documents (text) VALUES ($1)", document.text)
    return document
