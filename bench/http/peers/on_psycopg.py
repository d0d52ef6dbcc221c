"""The smallest services on psycopg_pool."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from bench.http.peers.common import (
    Account,
    NewAccount,
    numbered,
    or_404,
    values,
    with_all,
    with_instrumentator,
)
from bench.http.work import FIND_ACCOUNT, OPEN_ACCOUNT, POOL_SIZE


def bare() -> FastAPI:
    """psycopg_pool; autocommit, so that a read is one round trip."""
    pool = AsyncConnectionPool(
        os.environ["DATABASE_URL"],
        connection_class=AsyncConnection[DictRow],
        min_size=POOL_SIZE,
        max_size=POOL_SIZE,
        kwargs={"autocommit": True, "row_factory": dict_row},
        open=False,
    )
    find, opening = numbered(FIND_ACCOUNT, "%({})s"), numbered(OPEN_ACCOUNT, "%({})s")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    async def borrowed() -> AsyncIterator[AsyncConnection[DictRow]]:
        async with pool.connection() as connection:
            yield connection

    app = FastAPI(lifespan=lifespan)
    Borrowed = Annotated[AsyncConnection[DictRow], Depends(borrowed)]  # noqa: N806

    @app.get("/v1/accounts/{account_id}", response_model=Account)
    async def get_account(account_id: int, connection: Borrowed) -> dict[str, Any]:
        cursor = await connection.execute(find, {"p1": account_id})
        return or_404(await cursor.fetchone())

    @app.post("/v1/accounts", response_model=Account, status_code=201)
    async def open_account(new: NewAccount, connection: Borrowed) -> dict[str, Any]:
        async with connection.transaction():
            cursor = await connection.execute(opening, values(new))
            row = await cursor.fetchone()
        return or_404(row)

    return app


instrumented, alike = partial(with_instrumentator, bare), partial(with_all, bare)
