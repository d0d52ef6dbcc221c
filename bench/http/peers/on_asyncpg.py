"""The smallest services on asyncpg.Pool."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI

from bench.http.peers.common import Account, NewAccount, or_404, with_all, with_instrumentator
from bench.http.work import FIND_ACCOUNT, OPEN_ACCOUNT, POOL_SIZE


def bare() -> FastAPI:
    """asyncpg.Pool, its connection by a dependency, as FastAPI's guide has it."""
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    async def borrowed() -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
        async with pool.acquire() as connection:
            yield connection

    app = FastAPI(lifespan=lifespan)
    Borrowed = Annotated[asyncpg.pool.PoolConnectionProxy, Depends(borrowed)]  # noqa: N806

    @app.get("/v1/accounts/{account_id}", response_model=Account)
    async def get_account(account_id: int, connection: Borrowed) -> dict[str, Any]:
        return or_404(await connection.fetchrow(FIND_ACCOUNT, account_id))

    @app.post("/v1/accounts", response_model=Account, status_code=201)
    async def open_account(new: NewAccount, connection: Borrowed) -> dict[str, Any]:
        async with connection.transaction():
            row = await connection.fetchrow(OPEN_ACCOUNT, new.owner, new.currency, new.opening_balance)
        return or_404(row)

    return app


def least() -> FastAPI:
    """The least that FastAPI and asyncpg.Pool can do: no dependency."""
    pool = asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=POOL_SIZE, max_size=POOL_SIZE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/v1/accounts/{account_id}", response_model=Account)
    async def get_account(account_id: int) -> dict[str, Any]:
        return or_404(await pool.fetchrow(FIND_ACCOUNT, account_id))

    @app.post("/v1/accounts", response_model=Account, status_code=201)
    async def open_account(new: NewAccount) -> dict[str, Any]:
        async with pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(OPEN_ACCOUNT, new.owner, new.currency, new.opening_balance)
        return or_404(row)

    return app


instrumented, alike = partial(with_instrumentator, bare), partial(with_all, bare)
