"""The service inside the test's own process and loop, behind a real uvicorn and a real socket.

With a feature of the tests' own: they hold for a service whose example feature has been deleted.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httpx
import uvicorn
from fastapi import APIRouter, FastAPI
from lifeguard.operations.state import State
from lifeguard.server.protocol import Protocol
from lifeguard.testing.waiting import eventually
from lifeguard.web import ReadConnectionDep, TransactionDep, problems
from pydantic import BaseModel

from app.main import create_app
from app.settings import Settings

items = APIRouter(prefix="/items", tags=["items"], responses=problems.documented(*problems.DATABASE))


class Item(BaseModel):
    name: str


@items.get("")
async def list_items(connection: ReadConnectionDep, limit: int = 10) -> list[Item]:
    rows = await connection.fetch("SELECT 'item ' || n AS name FROM generate_series(1, $1) n", limit)
    return [Item(name=row["name"]) for row in rows]


@items.get("/{item_id}", responses=problems.documented(problems.NotFound))
async def get_item(item_id: int, connection: ReadConnectionDep) -> Item:
    raise problems.NotFound(f"Item {await connection.fetchval('SELECT $1::int', item_id)}.")


@items.post("", status_code=201, responses=problems.documented(*problems.WRITING))
async def create_item(item: Item, transaction: TransactionDep) -> Item:
    return Item(name=await transaction.fetchval("SELECT $1::text", item.name))


@dataclass
class Service:
    """A running service: what a client sees of it, and what it is made of."""

    app: FastAPI
    server: uvicorn.Server
    client: httpx.AsyncClient

    @property
    def state(self) -> State:
        return cast("State", self.server.lifespan.state)

    async def stop(self) -> None:
        """Tell the server to stop, as a signal does, and wait until it accepts nobody any more."""
        self.state["drain"].begin()
        self.server.should_exit = True
        await eventually(lambda: not any(server.is_serving() for server in self.server.servers))


def settings_for(url: str, **values: object) -> Settings:
    """Settings for this database, with small pools and no access log unless `values` say so.

    The name is not the owner's, who may have given the service another one.
    """
    small = {"pool_min_size": 1, "pool_max_size": 5, "log_level": "warning", "log_format": "json"}
    return Settings.model_validate({"database_url": url, "service_name": "ledger", **small, **values})


@asynccontextmanager
async def service(
    settings: Settings, *, routes: APIRouter | None = None, prepare: Callable[[FastAPI], None] | None = None
) -> AsyncIterator[Service]:
    """Serve the app, with `items` and `routes` besides its own, until the block ends."""
    app = create_app(settings)
    if prepare:
        prepare(app)
    app.include_router(items)
    if routes:
        app.include_router(routes)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="websockets-sansio",
        ws_max_size=settings.max_body_bytes,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        lifespan="on",
        log_config=None,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await eventually(lambda: server.started or serving.done())
    if serving.done():
        await serving
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            yield Service(app, server, client)
    finally:
        server.should_exit = True
        await serving


async def until_ready(service: Service) -> None:
    async def ready() -> bool:
        answer = await service.client.get("/readyz")
        assert answer.status_code == httpx.codes.OK, answer.text
        return True

    await eventually(ready)
