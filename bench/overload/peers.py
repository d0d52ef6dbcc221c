"""The peers: the smallest FastAPI service one would write on each pool.

One route each, `GET /work`, which keeps a connection for 20 ms. uvicorn starts them from their
factories; all read `DATABASE_URL`.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
from fastapi import FastAPI, HTTPException
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import create_async_engine

from bench.overload.work import POOL_SIZE, WORK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def on_asyncpg(timeout: float | None = None) -> FastAPI:
    """asyncpg.Pool; `timeout` is the acquire timeout in seconds, by default there is none."""
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/work")
    async def work() -> dict[str, bool]:
        try:
            async with pool.acquire(timeout=timeout) as connection:
                await connection.fetchval(WORK)
        except TimeoutError:
            raise HTTPException(503) from None
        return {"done": True}

    return app


def on_psycopg(timeout: float = 30.0) -> FastAPI:
    """psycopg_pool, whose own default timeout is 30 s."""
    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        timeout=timeout,
        kwargs={"autocommit": True},
        open=False,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/work")
    async def work() -> dict[str, bool]:
        try:
            async with pool.connection() as connection:
                await connection.execute(WORK)
        except PoolTimeout:
            raise HTTPException(503) from None
        return {"done": True}

    return app


def on_sqlalchemy(timeout: float = 30.0) -> FastAPI:
    """SQLAlchemy's async engine over asyncpg, whose own default timeout is 30 s."""
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=timeout)
    statement = text(WORK)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/work")
    async def work() -> dict[str, bool]:
        try:
            async with engine.connect() as connection:
                await connection.execute(statement)
        except exc.TimeoutError:
            raise HTTPException(503) from None
        return {"done": True}

    return app


on_asyncpg_half_second = partial(on_asyncpg, timeout=0.5)
on_psycopg_half_second = partial(on_psycopg, timeout=0.5)
