"""An error that clients can tell from others: a problem (RFC 9457) of your own."""

from typing import Annotated

from fastapi import APIRouter
from fastapi_problem.error import StatusProblem
from lifeguard.web import TransactionDep, problems
from pydantic import BaseModel, Field


class OutOfStock(StatusProblem):
    type_, title, status = "out-of-stock", "There is less than was asked for", 409


class Taking(BaseModel):
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]


class Left(BaseModel):
    item: str
    quantity: int


router = APIRouter(responses=problems.documented(*problems.WRITING))


@router.post(
    "/stock/{item}/take",
    responses=problems.documented(OutOfStock, problems.NotFound, problems.Invalid),
)
async def take(item: str, taking: Taking, transaction: TransactionDep) -> Left:
    there = await transaction.fetchval("SELECT quantity FROM stock WHERE item = $1 FOR UPDATE", item)
    if there is None:
        raise problems.NotFound(f"There is no item {item}.")
    if there < taking.quantity:
        # What is raised undoes the transaction. Named arguments are members of the problem.
        raise OutOfStock(f"{there} are left.", left=there)
    left = await transaction.fetchval(
        "UPDATE stock SET quantity = quantity - $2 WHERE item = $1 RETURNING quantity", item, taking.quantity
    )
    return Left(item=item, quantity=left)
