"""A metric of your own: made once, at import; `/metrics` serves the library's own registry as well."""

from typing import Annotated, Literal

from fastapi import APIRouter
from lifeguard.web import DatabaseDep, problems
from prometheus_client import Counter, Histogram
from pydantic import BaseModel, Field

# The values of a label are a fixed few: each is a series that stays. Never an id, a name, a path.
Channel = Literal["web", "shop", "phone"]

_SOLD = Counter("shop_items_sold", "Items sold.", labelnames=["channel"])
_SIZE = Histogram("shop_sale_items", "Items of one sale.", buckets=(1, 2, 5, 10, 50))


class Sale(BaseModel):
    item: str
    quantity: Annotated[int, Field(ge=1, le=1_000_000)]
    channel: Channel


router = APIRouter(responses=problems.documented(*problems.WRITING))


@router.post("/sales", status_code=204, responses=problems.documented(problems.NotFound, problems.Invalid))
async def sell(sale: Sale, database: DatabaseDep) -> None:
    async with database.transaction() as transaction:
        left = await transaction.fetchval(
            "UPDATE stock SET quantity = quantity - $2 WHERE item = $1 AND quantity >= $2 RETURNING quantity",
            sale.item,
            sale.quantity,
        )
    if left is None:
        raise problems.NotFound("There is not so much of it.")
    # After the commit: what is rolled back was not sold.
    _SOLD.labels(sale.channel).inc(sale.quantity)
    _SIZE.observe(sale.quantity)
