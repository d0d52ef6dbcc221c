"""The service on ledgers of the tests' own: `client`, `database` and the others of `lifeguard.testing`.

With `--through-pgbouncer` it reaches them all through a PgBouncer (the one that PGBOUNCER names, or the
installed one), which is set up to be no help: it keeps its defaults but for the mode.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from lifeguard.testing.pgbouncer import PgBouncer, pgbouncer
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.service import ServiceUnderTest, running
from lifeguard.testing.service_fixtures import Templates

from app.main import create_app
from app.settings import Settings

# Neither shedding is what is tested here nor how long anybody waits.
PATIENT: dict[str, object] = {
    "pool_queue_target": 0,
    "pool_acquire_timeout": 60,
    "lock_timeout": 60,
    "statement_timeout": 60,
    "command_timeout": 90,
}
LEDGER = ServiceUnderTest(create_app, Settings, pool_max_size=20, log_level="error", **PATIENT)

# How it behaves in an outage is for other tests: only that it does not last longer than the server's.
OF_TESTS = {"server_login_retry": 1, "query_wait_timeout": 10}


@pytest.fixture(scope="session")
def service_under_test() -> ServiceUnderTest[Settings]:
    return LEDGER


class Fronts:
    """One PgBouncer for each server and login that a test asks for; none without `--through-pgbouncer`."""

    def __init__(self) -> None:
        self.stack: AsyncExitStack | None = None
        self._fronts: dict[str, PgBouncer] = {}

    async def url(self, direct: str) -> str:
        """The URL by which the service is to reach the server that this one names."""
        if self.stack is None:
            return direct
        server = urlsplit(direct).netloc
        if server not in self._fronts:
            front = pgbouncer(direct, settings=OF_TESTS)
            self._fronts[server] = await self.stack.enter_async_context(front)
        return self._fronts[server].url(direct)


_fronts = Fronts()


@pytest.fixture(scope="session", autouse=True)
async def through_pgbouncer(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if request.config.getoption("--through-pgbouncer"):
            _fronts.stack = stack
        yield


@pytest.fixture
async def service_url(service_url: str) -> str:
    return await _fronts.url(service_url)


@asynccontextmanager
async def client_on(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service on the database of this URL."""
    url = await _fronts.url(url)
    async with running(create_app(LEDGER.settings_for(url))) as service, service.client() as client:
        yield client


@pytest.fixture(scope="session")
def ledger_template(templates: Templates) -> str:
    """The name of a database with the ledger's schema. No coroutine can make it: it has its own loop."""
    return templates.of(LEDGER)


@pytest.fixture(scope="session")
async def empty_ledger(postgres: PostgresServer, ledger_template: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a ledger that stays empty, for requests that must all be refused."""
    name = await postgres.create_database(template=ledger_template)
    async with client_on(postgres.dsn(name)) as client:
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
