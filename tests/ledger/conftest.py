"""The service on ledgers of the tests' own: `client`, `database` and the others of `lifeguard.testing`.

With `--through-pgbouncer` it reaches them all through a PgBouncer (the one that PGBOUNCER names, or the
installed one), which is set up to be no help: it keeps its defaults but for the mode.

With LEDGER_STANDBYS=2 in the environment the server has so many standbys, and the service reads from
them.
"""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from lifeguard.testing.pgbouncer import PgBouncer, pgbouncer
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer, copy_cluster, server_directory
from lifeguard.testing.service import ServiceUnderTest, running
from lifeguard.testing.service_fixtures import Templates
from lifeguard.testing.standby import standby_of
from typing_extensions import override

from app.main import create_app
from app.settings import Settings

# Neither shedding is what is tested here nor how long anybody waits: commits wait for standbys, where there
# are some.
PATIENT: dict[str, object] = {
    "pool_queue_target": 0,
    "pool_acquire_timeout": 60,
    "lock_timeout": 60,
    "statement_timeout": 120,
    "command_timeout": 180,
}
# How it behaves in an outage is for other tests: only that it does not last longer than the server's.
OF_TESTS = {"server_login_retry": 1, "query_wait_timeout": 10}
STANDBYS = int(os.environ.get("LEDGER_STANDBYS", "0"))


class Ledger(ServiceUnderTest[Settings]):
    """The service, which reads from the standbys where there are some."""

    def __init__(self) -> None:
        super().__init__(create_app, Settings, pool_max_size=20, log_level="error", **PATIENT)
        self.primary: PostgresServer | None = None
        self.standbys: list[PostgresServer] = []

    @override
    def settings_for(self, url: str, **values: object) -> Settings:
        """Behind a proxy, which stands for the database and its faults, there are no standbys."""
        parts = urlsplit(url)
        if self.primary is not None and parts.port == self.primary.port:
            replicas = " ".join(standby.dsn(parts.path.strip("/")) for standby in self.standbys)
            values = {"database_replica_url": replicas, **values}
        return super().settings_for(url, **values)


LEDGER = Ledger()


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


if STANDBYS:

    @pytest.fixture(scope="session")
    def postgres(cluster: Path) -> Iterator[PostgresServer]:
        """A server whose standbys have replayed each transaction before it is acknowledged: the tests read
        what they have just written."""
        settings = {"max_connections": "200"}
        waiting = {"synchronous_standby_names": f"{STANDBYS} (*)", "synchronous_commit": "remote_apply"}
        with server_directory() as directory, ExitStack() as stack:
            primary = PostgresServer(copy_cluster(cluster, directory / "primary"), {**settings, **waiting})
            stack.callback(primary.close)
            copies = [copy_cluster(cluster, directory / f"standby{number}") for number in range(STANDBYS)]
            run(primary.start())
            LEDGER.primary = primary
            for copy in copies:
                LEDGER.standbys.append(standby_of(primary.dsn(), copy, **settings))
                stack.callback(LEDGER.standbys[-1].close)
                run(LEDGER.standbys[-1].start())
            yield primary


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
