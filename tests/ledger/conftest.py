"""`client`: the whole service on a new ledger, called in this process. `database`: its database layer."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from lifeguard.database import Database
from lifeguard.testing.servers import PostgresServer
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.settings import Settings


class Running:
    """An app whose lifespan has begun, for transports that know of none."""

    def __init__(self, app: FastAPI, state: Mapping[str, Any]) -> None:
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "state": dict(self.state)}, receive, send)


@contextlib.asynccontextmanager
async def service_on(url: str) -> AsyncIterator[Running]:
    # Shedding is not what is tested here.
    settings = Settings(database_url=SecretStr(url), pool_queue_target=0, log_level="error")
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        yield Running(app, state or {})


def client_of(running: Running) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(running, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ledger")


@pytest.fixture
async def running(migrated_database: str) -> AsyncIterator[Running]:
    async with service_on(migrated_database) as running:
        yield running


@pytest.fixture
def database(running: Running) -> Database:
    database: Database = running.state["database"]
    return database


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(running) as client:
        yield client


@pytest.fixture(scope="session")
async def empty_ledger(postgres: PostgresServer, migrated_template: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a ledger that stays empty, for requests that must all be refused."""
    name = await postgres.create_database(template=migrated_template)
    async with service_on(postgres.dsn(name)) as running, client_of(running) as client:
        yield client
        assert (await client.get("/v1/accounts")).json()["items"] == []
    await postgres.drop_database(name)


async def open_account(
    client: httpx.AsyncClient, balance: int = 0, *, currency: str = "EUR", owner: str = "Ada"
) -> int:
    """The id of a new account."""
    body = {"owner": owner, "currency": currency, "opening_balance": balance}
    answer = await client.post("/v1/accounts", json=body)
    assert answer.status_code == 201, answer.text
    account_id: int = answer.json()["id"]
    return account_id


async def balance(client: httpx.AsyncClient, account_id: int) -> int:
    answer = await client.get(f"/v1/accounts/{account_id}")
    value: int = answer.json()["balance"]
    return value
