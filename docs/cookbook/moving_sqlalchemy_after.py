"""The same endpoints in a service of this starter: sessions are transactions, and SQL is written down."""

from typing import Annotated

from fastapi import APIRouter, Path
from lifeguard.web import ReadConnectionDep, TransactionDep, problems
from pydantic import BaseModel


class Order(BaseModel):
    id: int
    item: str


router = APIRouter(responses=problems.documented(*problems.WRITING, problems.Invalid))


@router.get("/orders/{number}", responses=problems.documented(problems.NotFound))
async def show(number: Annotated[int, Path(ge=1, le=2**63 - 1)], connection: ReadConnectionDep) -> Order:
    row = await connection.fetchrow("SELECT id, item FROM orders WHERE id = $1", number)
    if row is None:
        raise problems.NotFound(f"There is no order {number}.")
    return Order(**row)


@router.post("/orders", status_code=201)
async def create(item: str, transaction: TransactionDep) -> Order:
    row = await transaction.fetchrow(
        "INSERT INTO orders (customer, item) VALUES ('ada', $1) RETURNING id, item", item
    )
    assert row is not None
    await transaction.execute("UPDATE stock SET quantity = quantity - 1 WHERE item = $1", item)
    return Order(**row)
