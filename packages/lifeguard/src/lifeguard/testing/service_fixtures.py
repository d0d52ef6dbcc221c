"""The fixtures of the owner's service; `plugin` registers them where pytest-asyncio is installed.

What they need of `lifeguard-pg[service]` is imported when a test asks for it: tests of the pool do without.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from lifeguard.testing.databases import Databases, run
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer

if TYPE_CHECKING:
    import httpx

    from lifeguard.database import Database
    from lifeguard.settings import Settings
    from lifeguard.testing.service import RunningService, ServiceUnderTest

Fault = Callable[..., AbstractAsyncContextManager[None]]
"""Called in a test, it is the block in which something is wrong: `async with saturated(): ...`."""

_NOT_SAID = """\
lifeguard.testing does not know which service to test. Say so in conftest.py:

    import pytest
    from lifeguard.testing.service import ServiceUnderTest

    from app.main import create_app
    from app.settings import Settings

    @pytest.fixture(scope="session")
    def service_under_test() -> ServiceUnderTest[Settings]:
        return ServiceUnderTest(create_app, Settings)
"""


@pytest.fixture(scope="session")
def service_under_test() -> ServiceUnderTest[Any]:
    """To be given by the owner's conftest.py."""
    raise pytest.UsageError(_NOT_SAID)


class Templates:
    """A migrated database for each service under test, of which there may be one for each conftest.py."""

    def __init__(self, server: PostgresServer, databases: Databases) -> None:
        self._server = server
        self._databases = databases
        self._names: dict[ServiceUnderTest[Any], str] = {}

    def of(self, service: ServiceUnderTest[Any]) -> str:
        """The name of a database with this service's schema; it is migrated once."""
        from lifeguard.database.migrations import upgrade  # noqa: PLC0415 - Alembic, see above

        if service not in self._names:
            name = self._databases.create()
            run(upgrade(service.settings_for(self._server.dsn(name))))
            self._names[service] = name
        return self._names[service]


@pytest.fixture(scope="session")
def templates(postgres: PostgresServer, databases: Databases) -> Templates:
    """The databases from which those of the tests are copied."""
    return Templates(postgres, databases)


@pytest.fixture
def migrated_database(
    postgres: PostgresServer,
    databases: Databases,
    templates: Templates,
    service_under_test: ServiceUnderTest[Any],
) -> Iterator[str]:
    """The URL of a new database with the service's schema, which goes with all its sessions."""
    name = databases.create(templates.of(service_under_test))
    yield postgres.dsn(name)
    databases.drop(name)


@pytest.fixture
def service_url(request: pytest.FixtureRequest, migrated_database: str) -> str:
    """The database as the service reaches it: through `proxy`, where the test or its faults have one."""
    if "proxy" not in request.fixturenames:
        return migrated_database
    proxy: Proxy = request.getfixturevalue("proxy")
    direct = urlsplit(migrated_database)
    login = direct.netloc.rpartition("@")[0]
    return direct._replace(netloc=f"{login}@{proxy.host}:{proxy.port}", query="sslmode=disable").geturl()


@pytest.fixture
def service_settings(
    request: pytest.FixtureRequest, service_under_test: ServiceUnderTest[Any], service_url: str
) -> Settings:
    """The settings of the test's service: of `service_under_test`, of its class's mark, of its own."""
    values: dict[str, object] = {}
    for mark in reversed(list(request.node.iter_markers("settings"))):
        values |= mark.kwargs
    settings: Settings = service_under_test.settings_for(service_url, **values)
    return settings


@pytest_asyncio.fixture
async def service(
    service_under_test: ServiceUnderTest[Any], service_settings: Settings
) -> AsyncIterator[RunningService]:
    """The service in the test's own process and loop, after its lifespan has begun."""
    from lifeguard.testing.service import running  # noqa: PLC0415 - see above

    async with running(service_under_test.create_app(service_settings)) as service:
        yield service


@pytest_asyncio.fixture
async def client(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `service`: requests go to the application without a socket."""
    async with service.client() as client:
        yield client


@pytest.fixture
def database(service: RunningService) -> Database:
    """The database of `service`, to arrange what a test needs and to see what has come of it."""
    return service.database


@pytest.fixture
def saturated(service: RunningService) -> Fault:
    """`async with saturated():` all connections are in use and the queue is full, so that requests are turned
    away at once. `saturated(waiting=0)`: nobody waits, so that a request waits, in vain."""
    from lifeguard.testing.service import saturated  # noqa: PLC0415 - see above

    return partial(saturated, service.database)


@pytest.fixture
def database_down(proxy: Proxy, service: RunningService) -> Fault:
    """`async with database_down():` the database is gone, and the service knows; afterwards it is back."""
    from lifeguard.testing.service import down  # noqa: PLC0415 - see above

    return partial(down, service.database, proxy)


@pytest.fixture
def slow_database(proxy: Proxy, service: RunningService) -> Fault:  # noqa: ARG001 - there before it
    """`async with slow_database(0.2):` each message to the database and from it takes so many seconds."""
    from lifeguard.testing.service import slow  # noqa: PLC0415 - see above

    return partial(slow, proxy)


@pytest.fixture
def draining(service: RunningService) -> Fault:
    """`async with draining():` the service has been told to stop. It does not come back: it ends the test."""

    @asynccontextmanager
    async def draining() -> AsyncIterator[None]:
        service.state["drain"].begin()
        yield

    return draining
