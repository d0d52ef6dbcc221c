"""The pool alone, in a FastAPI app that has its own settings, errors and middleware."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from typing import Annotated

import asyncpg
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from lifeguard import Pool, PoolError, PoolSaturated, PoolUnavailable
from lifeguard.pool import Lease


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Pool(os.environ["DATABASE_URL"], min_size=2, max_size=10) as pool:
        app.state.pool = pool
        yield
        await pool.drain(10)  # seconds for those who still hold a connection


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PoolError)
async def no_connection(_: Request, error: PoolError) -> JSONResponse:
    """503 whatever the reason: turned away, waited in vain, no server, closing. A client may try again."""
    later = error.retry_after if isinstance(error, PoolSaturated | PoolUnavailable) else 1.0
    return JSONResponse(
        {"detail": "No database connection; try again."},
        503,
        headers={"Retry-After": str(max(1, ceil(later)))},
    )


@app.exception_handler(asyncpg.PostgresConnectionError)
async def connection_lost(_: Request, __: asyncpg.PostgresConnectionError) -> JSONResponse:
    """503 for what was lost in the middle of a statement: whether it has taken effect is not known."""
    return JSONResponse({"detail": "The database connection was lost."}, 503)


async def lease(request: Request) -> AsyncIterator[Lease]:
    pool: Pool = request.app.state.pool
    async with pool.acquire() as connection:
        yield connection


LeaseDep = Annotated[Lease, Depends(lease, scope="function")]  # it goes back before the answer is sent


@app.get("/orders/count")
async def count(connection: LeaseDep) -> int:
    number: int = await connection.fetchval("SELECT count(*) FROM orders")
    return number
