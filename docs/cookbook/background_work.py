"""Work after the answer: it holds no connection while it does not need one, and can be lost."""

from fastapi import APIRouter, BackgroundTasks
from lifeguard.database import Database
from lifeguard.web import DatabaseDep, problems
from pydantic import BaseModel, Field


class NewOrder(BaseModel):
    customer: str = Field(min_length=1, max_length=100)
    item: str = Field(min_length=1, max_length=100)


class Order(NewOrder):
    id: int


router = APIRouter(responses=problems.documented(*problems.WRITING))


@router.post("/orders", status_code=201, responses=problems.documented(problems.Invalid))
async def create(new: NewOrder, database: DatabaseDep, later: BackgroundTasks) -> Order:
    async with database.transaction() as transaction:
        number = await transaction.fetchval(
            "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id", new.customer, new.item
        )
    order = Order(id=number, **new.model_dump())
    later.add_task(
        confirm, database, order
    )  # DatabaseDep: a connection of the endpoint's has gone back by then
    return order


async def confirm(database: Database, order: Order) -> None:
    """Tell the customer, and note that it was told.

    A process that is killed loses this. What must not be lost is a row: here that of an order whose
    `confirmed_at` is empty, which a job finds later.
    """
    await tell(order)
    await database.execute("UPDATE orders SET confirmed_at = now() WHERE id = $1", order.id)


async def tell(order: Order) -> None:
    """Send the mail."""
