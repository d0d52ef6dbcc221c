"""A service of one table, for tests of the fixtures that a service's owner uses."""

from pathlib import Path
from typing import ClassVar

from fastapi import APIRouter
from lifeguard import protection, settings
from lifeguard.observability import logs
from lifeguard.operations import probes
from lifeguard.service import Service
from lifeguard.web import ReadConnectionDep, TransactionDep

orders = APIRouter()


class Settings(settings.Settings):
    migrations: ClassVar = Path(__file__).parent / "migrations"
    greeting: str = "hello"


@orders.get("/orders")
async def list_orders(connection: ReadConnectionDep) -> list[str]:
    return [row["item"] for row in await connection.fetch("SELECT item FROM orders ORDER BY id")]


@orders.post("/orders", status_code=201)
async def create_order(item: str, transaction: TransactionDep) -> str:
    await transaction.execute("INSERT INTO orders (item) VALUES ($1)", item)
    return item


def create_app(settings: Settings) -> Service:
    logs.configure(settings)
    service = Service(settings)
    service.protect(*protection.STANDARD)
    service.include_operators(probes.router)
    service.include_router(orders)
    return service
