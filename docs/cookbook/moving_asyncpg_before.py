"""A FastAPI app on asyncpg.create_pool, as many are."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI, HTTPException, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = await asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=2, max_size=10, max_inactive_connection_lifetime=60
    )
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.get("/orders/{number}")
async def show(number: int, request: Request) -> dict[str, object]:
    row = await request.app.state.pool.fetchrow("SELECT id, item FROM orders WHERE id = $1", number)
    if row is None:
        raise HTTPException(404)
    return dict(row)


@app.post("/orders", status_code=201)
async def create(item: str, request: Request) -> dict[str, object]:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(
            "INSERT INTO orders (customer, item) VALUES ('ada', $1) RETURNING id, item", item
        )
        await connection.execute("UPDATE stock SET quantity = quantity - 1 WHERE item = $1", item)
    return dict(row)
