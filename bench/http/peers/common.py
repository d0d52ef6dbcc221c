"""What all peers have: the models, and what is put on."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

NOT_FOUND = 404


class NewAccount(BaseModel):
    owner: str
    currency: str
    opening_balance: int = 0


class Account(BaseModel):
    id: int
    owner: str
    currency: str
    balance: int
    created_at: datetime


def or_404(row: Any) -> dict[str, Any]:  # Any: each driver has a class of its own for a row
    """The row for the answer. Raises 404 if there is none."""
    if row is None:
        raise HTTPException(NOT_FOUND)
    return dict(row)


def numbered(statement: str, written: str) -> str:
    """The statement with its parameters, `p1`, `p2` and `p3`, written as the driver wants them."""
    for number in (1, 2, 3):
        statement = statement.replace(f"${number}", written.format(f"p{number}"))
    return statement


def values(new: NewAccount) -> dict[str, Any]:
    return {"p1": new.owner, "p2": new.currency, "p3": new.opening_balance}


def with_instrumentator(make: Callable[[], FastAPI]) -> FastAPI:
    """As its guide has it."""
    from prometheus_fastapi_instrumentator import Instrumentator  # noqa: PLC0415 - a bare service has none

    app = make()
    Instrumentator().instrument(app).expose(app)
    return app


def with_all(make: Callable[[], FastAPI]) -> FastAPI:
    """The same for the user as ours: metrics, request ids, an access log of JSON lines."""
    from bench.http.access_log import AccessLog  # noqa: PLC0415 - as above

    app = with_instrumentator(make)
    app.add_middleware(AccessLog)
    return app
