"""The strategies beside ours: the smallest FastAPI service for each, as guides write it.

The same route as in `bench.overload`; every pool has the sizes and timeouts that it comes with.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from bench.overload.work import WORK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def on_a_connection_each() -> FastAPI:
    """No pool: every request connects and closes."""
    app = FastAPI()

    @app.get("/work")
    async def work() -> dict[str, bool]:
        connection = await asyncpg.connect(os.environ["DATABASE_URL"])
        try:
            await connection.fetchval(WORK)
        finally:
            await connection.close()
        return {"done": True}

    return app


def on_sqlalchemy_defaults() -> FastAPI:
    """SQLAlchemy's QueuePool: 5 connections are kept, 10 more come and go, 30 s to get one."""
    engine = create_async_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"))
    statement = text(WORK)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.get("/work")
    async def work() -> dict[str, bool]:
        async with engine.connect() as connection:
            await connection.execute(statement)
        return {"done": True}

    return app


def on_asyncpg_defaults() -> FastAPI:
    """asyncpg.Pool: 10 connections, no limit to the wait for one."""
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/work")
    async def work() -> dict[str, bool]:
        async with pool.acquire() as connection:
            await connection.fetchval(WORK)
        return {"done": True}

    return app
