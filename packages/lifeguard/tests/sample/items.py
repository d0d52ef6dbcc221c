"""A feature with each kind of route: one that reads, one that finds nothing, one that writes."""

from fastapi import APIRouter
from lifeguard.web import ReadConnectionDep, TransactionDep, problems
from pydantic import BaseModel

router = APIRouter(prefix="/items", tags=["items"], responses=problems.documented(*problems.DATABASE))


class Item(BaseModel):
    name: str


@router.get("")
async def list_items(connection: ReadConnectionDep, limit: int = 10) -> list[Item]:
    rows = await connection.fetch("SELECT 'item ' || n AS name FROM generate_series(1, $1) n", limit)
    return [Item(name=row["name"]) for row in rows]


@router.get("/{item_id}", responses=problems.documented(problems.NotFound))
async def get_item(item_id: int, connection: ReadConnectionDep) -> Item:
    raise problems.NotFound(f"Item {await connection.fetchval('SELECT $1::int', item_id)}.")


@router.post("", status_code=201, responses=problems.documented(*problems.WRITING))
async def create_item(item: Item, transaction: TransactionDep) -> Item:
    return Item(name=await transaction.fetchval("SELECT $1::text", item.name))
