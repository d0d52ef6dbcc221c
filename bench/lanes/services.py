"""The contestants: the same routes on each pool, as its users would write them.

`/accounts` needs the table of that name; the others keep a connection for as long and need no table. On
ours a route's priority and what makes a tenant are declared; the peers have nothing to declare it to.
A peer's acquire timeout is half a second: with the one it comes with it serves nobody in time once more ask
than it can serve (`bench.overload`).
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
from fastapi import FastAPI, HTTPException, Request
from lifeguard.server import collector
from lifeguard.web import ConnectionDep, lane
from psycopg_pool import AsyncConnectionPool, PoolTimeout
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import create_async_engine

from app.main import create_app
from bench.lanes.work import SERVICE_TIME, WORK
from bench.overload.work import POOL_SIZE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

TABLE = "CREATE TABLE accounts (id int PRIMARY KEY); INSERT INTO accounts VALUES (1)"
STATEMENTS = {
    "/accounts": f"SELECT pg_sleep({SERVICE_TIME}) FROM accounts WHERE id = 1",
    "/orders": WORK,
    "/products": WORK,
    "/critical": WORK,
    "/normal": WORK,
    "/background": WORK,
    "/work": WORK,
}
ACQUIRE_TIMEOUT = 0.5


def on_lifeguard() -> FastAPI:
    """This project's service, every part of it, with its defaults but for the pool's size."""
    app = create_app()
    lanes = {
        "/critical": lane(priority="critical"),
        "/background": lane(priority="background"),
        "/work": lane(of=_tenant),
    }
    for path, statement in STATEMENTS.items():

        async def answer(connection: ConnectionDep, statement: str = statement) -> dict[str, bool]:
            await connection.fetchval(statement)
            return {"done": True}

        app.get(path, dependencies=[lanes[path]] if path in lanes else [])(answer)
    collector.settle()  # as `app.main:app` and `python -m app serve` do
    return app


def _tenant(request: Request) -> str | None:
    return request.headers.get("x-tenant")


def on_asyncpg() -> FastAPI:
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE)

    async def run(statement: str) -> None:
        async with pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
            await connection.fetchval(statement)

    return _app(pool, run, TimeoutError)


def on_psycopg() -> FastAPI:
    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        timeout=ACQUIRE_TIMEOUT,
        kwargs={"autocommit": True},
        open=False,
    )

    async def run(statement: str) -> None:
        async with pool.connection() as connection:
            await connection.execute(statement.encode())

    return _app(pool, run, PoolTimeout)


def on_sqlalchemy() -> FastAPI:
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=ACQUIRE_TIMEOUT)

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        yield
        await engine.dispose()

    async def run(statement: str) -> None:
        async with engine.connect() as connection:
            await connection.execute(text(statement))

    return _app(opened(), run, exc.TimeoutError)


def _app(
    pool: AbstractAsyncContextManager[object],
    run: Callable[[str], Awaitable[None]],
    in_vain: type[Exception],
) -> FastAPI:
    """The smallest service: `in_vain` is what the pool raises when no connection became free."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)
    for path, statement in STATEMENTS.items():

        async def answer(statement: str = statement) -> dict[str, bool]:
            try:
                await run(statement)
            except in_vain:
                raise HTTPException(503) from None
            return {"done": True}

        app.get(path)(answer)
    return app
