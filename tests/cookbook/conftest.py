"""One service with every recipe mounted, on one database, for all tests of a worker.

Its user is no superuser, for whom row-level security would not count.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI, Request
from joserfc.jwk import Key, KeySet
from lifeguard.database import Database
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service, serving
from lifeguard.testing.waiting import eventually
from prometheus_client import REGISTRY

from app.main import create_app
from app.settings import Settings
from docs.cookbook import (
    background_work,
    bearer_tokens,
    cors,
    export_csv,
    external_call,
    import_copy,
    live_events,
    log_event,
    moving_sqlalchemy_after,
    own_metric,
    own_problem,
    own_variable,
    query_builder,
    rate_limit,
    read_your_writes,
    row_level_security,
    schema_per_tenant,
    second_database,
    websocket,
)

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs/cookbook"
TABLES = ("orders.sql", "tenants.sql", "row_level_security.sql")
USER = "shop"

MOUNTED = (
    background_work,
    bearer_tokens,
    export_csv,
    external_call,
    import_copy,
    live_events,
    log_event,
    own_metric,
    own_problem,
    own_variable,
    query_builder,
    rate_limit,
    read_your_writes,
    row_level_security,
    schema_per_tenant,
    second_database,
    websocket,
)


class ShopSettings(
    bearer_tokens.Settings, external_call.Settings, own_variable.Settings, second_database.Settings, Settings
):
    """The service's settings, with what the recipes add. Other tests count sessions of its usual name."""

    defaults: ClassVar = {"service_name": "shop"}


OWN_METRICS = (own_metric._SOLD, own_metric._SIZE)
"""Registered by the test of them: other tests of this process look at what is served."""
for one in OWN_METRICS:
    REGISTRY.unregister(one)


@dataclass
class Outside:
    """What other parties run: a carrier, and a provider of identities."""

    url: str = ""
    keys: list[Key] = field(default_factory=list)
    """What the provider signs with; the first is the present one."""
    looks: int = 0
    """How often somebody has fetched its keys."""
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the carrier answers; else it lets its clients wait."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Shop:
    """The service that the recipes make, and what is around it."""

    service: Service
    outside: Outside
    url: str
    """Of its database, as its own user."""

    @property
    def client(self) -> httpx.AsyncClient:
        return self.service.client

    @property
    def database(self) -> Database:
        return self.service.state["database"]

    async def all_returned(self) -> None:
        """Wait until nobody holds a connection."""
        await eventually(lambda: self.database.primary.stats().used == 0)


def mount(app: FastAPI) -> None:
    for recipe in MOUNTED:
        app.include_router(recipe.router)
    app.include_router(moving_sqlalchemy_after.router, prefix="/moved")
    cors.allow_origins(app)


@pytest.fixture(scope="session")
def shop_url(postgres: PostgresServer) -> Iterator[str]:
    """A database with the recipes' tables, all of them the service's own."""

    async def prepare(name: str) -> None:
        async with postgres.connect(name) as admin:
            password = postgres.password.replace("'", "''")
            await admin.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'")
            await admin.execute(f"ALTER DATABASE {name} OWNER TO {USER}; ALTER SCHEMA public OWNER TO {USER}")
            await admin.execute(f"SET ROLE {USER}")
            for file in TABLES:
                await admin.execute((RECIPES / file).read_text(encoding="utf-8"))

    name = run(postgres.create_database())
    run(prepare(name))
    yield postgres.dsn(name, user=USER)
    run(postgres.drop_database(name))

    async def drop() -> None:
        async with postgres.connect() as admin:
            await admin.execute(f"DROP ROLE {USER}")

    run(drop())


@pytest.fixture(scope="session")
def reports_url(postgres: PostgresServer) -> Iterator[str]:
    async def prepare(name: str) -> None:
        async with postgres.connect(name) as admin:
            await admin.execute("CREATE TABLE lines AS SELECT generate_series(1, 7) AS number")

    name = run(postgres.create_database())
    run(prepare(name))
    yield postgres.dsn(name)
    run(postgres.drop_database(name))


@pytest_asyncio.fixture(scope="session")
async def outside() -> AsyncIterator[Outside]:
    parties = Outside()
    app = FastAPI()

    @app.get("/jwks.json")
    async def jwks() -> object:
        parties.looks += 1
        return KeySet(parties.keys).as_dict(private=False)

    @app.post("/parcels")
    async def parcels(request: Request) -> dict[str, str]:
        parties.asked.set()
        await parties.answering.wait()
        return {"tracking": request.headers["Idempotency-Key"]}

    async with _served(app) as parties.url:
        yield parties


@asynccontextmanager
async def _served(app: FastAPI) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    serving = asyncio.create_task(server.serve([listener]))
    await eventually(lambda: server.started)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def running_shop(shop_url: str, reports_url: str, outside: Outside) -> AsyncIterator[Shop]:
    settings = ShopSettings.model_validate(
        {
            "database_url": shop_url,
            "reports_url": reports_url,
            "carrier_url": outside.url,
            "oidc_keys": f"{outside.url}/jwks.json",
            "pool_min_size": 1,
            "pool_max_size": 4,
            "log_format": "json",
            "log_level": "info",
        }
    )
    app = create_app(settings)
    mount(app)
    async with serving(app) as running:
        yield Shop(running, outside, shop_url)


@pytest_asyncio.fixture
async def shop(running_shop: Shop) -> AsyncIterator[Shop]:
    """The service, with its tables emptied."""
    await running_shop.all_returned()
    await running_shop.database.execute("TRUNCATE orders, stock RESTART IDENTITY")
    yield running_shop
    await running_shop.all_returned()
