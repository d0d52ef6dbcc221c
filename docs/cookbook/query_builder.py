"""SQLAlchemy Core as a query builder: it writes the SQL, and our connections run it.

Nothing of its engine, sessions or pool is used. For queries whose shape depends on the request.
"""

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from asyncpg import Record
from fastapi import APIRouter, Query
from lifeguard.database import Connection, ReadConnection, Transaction
from lifeguard.web import DatabaseDep, ReadConnectionDep, problems
from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, func, insert, select, update
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

_DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]  # of SQLAlchemy

orders = Table(
    "orders",
    MetaData(),
    Column("id", BigInteger, primary_key=True),
    Column("customer", Text),
    Column("item", Text),
    Column("quantity", Integer),
    Column("state", Text),
)


def compiled(statement: ClauseElement) -> tuple[str, Sequence[object]]:
    """The statement's text with `$1`, `$2`, and what belongs there.

    Values go to asyncpg as they are. SQLAlchemy's own conversions (JSON, TypeDecorator, Enum) are left out.
    """
    made = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    assert isinstance(made, SQLCompiler)
    return str(made), [made.params[name] for name in made.positiontup or ()]


async def fetch(connection: ReadConnection, statement: ClauseElement) -> list[Record]:
    text, values = compiled(statement)
    return await connection.fetch(text, *values)


async def execute(connection: Connection, statement: ClauseElement) -> str:
    text, values = compiled(statement)
    return await connection.execute(text, *values)


class Found(BaseModel):
    id: int
    item: str
    quantity: int


router = APIRouter(prefix="/built", responses=problems.documented(*problems.WRITING))


@router.get("/orders")
async def find(
    connection: ReadConnectionDep,
    customer: str,
    state: str | None = None,
    at_least: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
) -> list[Found]:
    query = select(orders.c.id, orders.c.item, orders.c.quantity).where(orders.c.customer == customer)
    if state is not None:
        query = query.where(orders.c.state.in_(state.split(",")))
    if at_least is not None:
        query = query.where(orders.c.quantity >= at_least)
    return [Found(**row) for row in await fetch(connection, query.order_by(orders.c.id).limit(100))]


class Moving(BaseModel):
    source: str
    target: str


@router.post("/move", status_code=204)
async def move(moving: Moving, database: DatabaseDep) -> None:
    """Give one customer's open orders to another, and note it: both or neither."""
    await database.run_in_transaction(partial(_move, moving))


async def _move(moving: Moving, transaction: Transaction) -> None:
    mine = (orders.c.customer == moving.source) & (orders.c.state == "open")
    await execute(transaction, update(orders).where(mine).values(customer=moving.target))
    note = insert(orders).values(customer=moving.target, item=func.lower("MOVED"), quantity=1, state="note")
    await execute(transaction, note)
