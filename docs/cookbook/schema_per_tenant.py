"""A schema for each tenant: `search_path` is set for one transaction, and ends with it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from lifeguard.database import Database, Transaction
from lifeguard.web import DatabaseDep, problems
from pydantic import BaseModel, Field

TenantName = Annotated[str, Header(alias="X-Tenant", pattern=r"^[a-z][a-z0-9_]{0,30}$")]
"""Here from a header, to be short. In a service it is a claim of the user's token: see bearer_tokens.py."""


@asynccontextmanager
async def of_tenant(database: Database, name: str) -> AsyncIterator[Transaction]:
    """A transaction in which a table's name means the tenant's own. Raises NotFound."""
    async with database.transaction() as transaction:
        known = await transaction.fetchval(
            # true: until the end of the transaction. The next borrower of the connection has the usual path.
            "SELECT set_config('search_path', 'tenant_' || name, true) FROM public.tenants WHERE name = $1",
            name,
        )
        if known is None:
            raise problems.NotFound("There is no such tenant.")
        yield transaction


async def tenant(name: TenantName, database: DatabaseDep) -> AsyncIterator[Transaction]:
    async with of_tenant(database, name) as transaction:
        yield transaction


TenantDep = Annotated[Transaction, Depends(tenant, scope="function")]


class Note(BaseModel):
    text: str = Field(min_length=1, max_length=1000)


router = APIRouter(prefix="/notes", responses=problems.documented(*problems.WRITING, problems.NotFound))


@router.get("")
async def notes(transaction: TenantDep) -> list[Note]:
    return [Note(**row) for row in await transaction.fetch("SELECT text FROM notes ORDER BY id LIMIT 100")]


@router.post("", status_code=201)
async def add(note: Note, transaction: TenantDep) -> Note:
    await transaction.execute("INSERT INTO notes (text) VALUES ($1)", note.text)
    return note
