"""A call of another service between two visits to the database: no connection is held while it lasts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import APIRouter, Depends, Path, Request
from fastapi_problem.error import StatusProblem
from lifeguard import settings
from lifeguard.service import Service
from lifeguard.web import DatabaseDep, problems
from pydantic import BaseModel

_PATIENCE = 5.0  # seconds for the whole call; below what our own clients wait


class Settings(settings.Settings):  # in app/settings.py: one more field
    carrier_url: str = "http://127.0.0.1:8100"
    """Where the carrier's service is."""


class CarrierFailed(StatusProblem):
    type_, title, status = "carrier-failed", "The carrier has not answered as it should", 502


class NotOpen(StatusProblem):
    type_, title, status = "order-not-open", "The order is not open", 409


class Parcel(BaseModel):
    order: int
    tracking: str


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[dict[str, object]]:
    """One client for all requests: it keeps its connections, and bounds their number."""
    settings = service.parts["settings"]
    assert isinstance(settings, Settings)
    limits = httpx.Limits(max_connections=20)
    async with httpx.AsyncClient(base_url=settings.carrier_url, timeout=_PATIENCE, limits=limits) as client:
        yield {"carrier": client}


async def carrier(request: Request) -> httpx.AsyncClient:
    client: httpx.AsyncClient = request.state.carrier
    return client


router = APIRouter(lifespan=lifespan, responses=problems.documented(*problems.WRITING))


@router.post(
    "/orders/{order_id}/ship",
    responses=problems.documented(problems.NotFound, problems.Invalid, NotOpen, CarrierFailed),
)
async def ship(
    order_id: Annotated[int, Path(ge=1, le=2**63 - 1)],
    database: DatabaseDep,  # not TransactionDep, which would hold a connection until the end
    carrier: Annotated[httpx.AsyncClient, Depends(carrier)],
) -> Parcel:
    order = await database.fetchrow("SELECT item, state FROM orders WHERE id = $1", order_id)
    if order is None:
        raise problems.NotFound(f"There is no order {order_id}.")
    if order["state"] != "open":
        raise NotOpen
    tracking = await _book(carrier, order_id, order["item"])
    # Seconds may have passed: whether it is still open is asked again, where it is changed.
    shipped = await database.fetchval(
        "UPDATE orders SET state = 'shipped' WHERE id = $1 AND state = 'open' RETURNING id", order_id
    )
    if shipped is None:
        raise NotOpen("It was changed meanwhile.")
    return Parcel(order=order_id, tracking=tracking)


async def _book(carrier: httpx.AsyncClient, order_id: int, item: str) -> str:
    """Book a parcel. The key has the carrier recognise a repetition: we may fail after it has answered."""
    try:
        async with asyncio.timeout(_PATIENCE):
            answer = await carrier.post(
                "/parcels", json={"item": item}, headers={"Idempotency-Key": f"order-{order_id}"}
            )
        answer.raise_for_status()
        return str(answer.json()["tracking"])
    except (httpx.HTTPError, TimeoutError, ValueError, KeyError) as error:
        raise CarrierFailed from error
