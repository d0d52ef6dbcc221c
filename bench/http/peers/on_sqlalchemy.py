"""The smallest services on SQLAlchemy's async engine."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

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

TYPED = OPEN_ACCOUNT.replace("$3::bigint", "CAST($3 AS bigint)")
"""In `text()` two colons are no cast."""


def bare() -> FastAPI:
    """SQLAlchemy's async engine over asyncpg, without its ORM."""
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://")
    engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)
    find, opening = text(numbered(FIND_ACCOUNT, ":{}")), text(numbered(TYPED, ":{}"))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    async def borrowed() -> AsyncIterator[AsyncConnection]:
        async with engine.connect() as connection:
            yield connection

    app = FastAPI(lifespan=lifespan)
    Borrowed = Annotated[AsyncConnection, Depends(borrowed)]  # noqa: N806

    @app.get("/v1/accounts/{account_id}", response_model=Account)
    async def get_account(account_id: int, connection: Borrowed) -> dict[str, Any]:
        found = await connection.execute(find, {"p1": account_id})
        return or_404(found.mappings().one_or_none())

    @app.post("/v1/accounts", response_model=Account, status_code=201)
    async def open_account(new: NewAccount, connection: Borrowed) -> dict[str, Any]:
        async with connection.begin():
            made = await connection.execute(opening, values(new))
        return or_404(made.mappings().one_or_none())

    return app


instrumented, alike = partial(with_instrumentator, bare), partial(with_all, bare)
