"""The contestants: a read of the database, and a write whose body is validated."""

from __future__ import annotations

import gc
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from fastapi import FastAPI
from lifeguard.web import ConnectionDep
from pydantic import BaseModel, ConfigDict

from app.main import create_app
from bench.overload.work import POOL_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ = "SELECT sum(n) FROM generate_series(1, 100) AS n"
WRITE = "SELECT length($1)"


class Order(BaseModel):
    """Says no to what it does not know, as a careful API does."""

    model_config = ConfigDict(extra="forbid")

    item: str
    number: int


def on_lifeguard() -> FastAPI:
    """This project's service, every part of it, and the routes of the peer."""
    app = create_app()

    @app.get("/work")
    async def read(connection: ConnectionDep) -> dict[str, int]:
        return {"sum": await connection.fetchval(READ)}

    @app.post("/work")
    async def write(order: Order, connection: ConnectionDep) -> dict[str, int]:
        return {"length": await connection.fetchval(WRITE, order.item)}

    gc.freeze()  # as `app.main:app` and `python -m app serve` do
    return app


def on_asyncpg() -> FastAPI:
    """The smallest FastAPI service on asyncpg.Pool."""
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/work")
    async def read() -> dict[str, int]:
        return {"sum": await pool.fetchval(READ)}

    @app.post("/work")
    async def write(order: Order) -> dict[str, int]:
        return {"length": await pool.fetchval(WRITE, order.item)}

    return app
