"""The same app on lifeguard.Pool: the pool is made in another way, and its errors have an answer."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from lifeguard import Pool, PoolError, PoolSaturated, PoolUnavailable


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Pool(os.environ["DATABASE_URL"], min_size=2, max_size=10, idle_timeout=60) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PoolError)
async def no_connection(_: Request, error: PoolError) -> JSONResponse:
    later = error.retry_after if isinstance(error, PoolSaturated | PoolUnavailable) else 1.0
    return JSONResponse({"detail": "Try again."}, 503, headers={"Retry-After": str(max(1, ceil(later)))})


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
