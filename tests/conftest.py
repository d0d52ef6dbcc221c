"""What every test may ask for: servers, databases, the event loop.

postgres          one server for the whole run; whoever stops it starts it again
server_factory    servers of a test's own, with their own parameters
database_url      a new, empty database on `postgres`
ledger_database   a new database with the service's schema on `postgres`
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop
from lifeguard.database.migrations import upgrade
from lifeguard.settings.environment import secrets_read
from pydantic import SecretStr

from app.settings import Settings
from tests.servers import PostgresServer, copy_cluster, create_cluster, server_directory

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
T = TypeVar("T")
ServerFactory = Callable[..., Awaitable[PostgresServer]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--loop",
        choices=LOOPS,
        default="uvloop",  # what the service runs on
        help="event loop of the tests; asyncio's own gives the better tracebacks",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = config.getoption("--loop")
    return {name: LOOPS[name]}


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own: databases are there for tests with and without a loop alike."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The directory of a cluster to copy new servers from."""
    with server_directory() as directory:
        yield create_cluster(directory / "cluster")


@pytest.fixture(scope="session")
def postgres(cluster: Path) -> Iterator[PostgresServer]:
    with server_directory() as directory:
        server = PostgresServer(copy_cluster(cluster, directory / "postgres"), {"max_connections": "200"})
        try:
            run(server.start())
            yield server
        finally:
            server.close()


@pytest.fixture
def server_factory(cluster: Path) -> Iterator[ServerFactory]:
    """`await server_factory(max_connections="5")` starts a server with these parameters."""
    servers: list[PostgresServer] = []
    with server_directory() as directory:

        async def start(**parameters: str) -> PostgresServer:
            path = await asyncio.to_thread(copy_cluster, cluster, directory / str(len(servers)))
            servers.append(PostgresServer(path, parameters))
            await servers[-1].start()
            return servers[-1]

        try:
            yield start
        finally:
            for server in servers:
                server.close()


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> None:
    """What one test takes for a password is a word like any other to the next one."""
    secrets_read.clear()


@pytest.fixture
def database_first(request: pytest.FixtureRequest) -> None:
    """For whoever connects: a database of the test's own is there before it and goes after it. A session in
    the middle of its start would hold up the DROP."""
    for name in {"database_url", "ledger_database"} & set(request.fixturenames):
        request.getfixturevalue(name)


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    name = run(postgres.create_database())
    yield postgres.dsn(name)
    run(postgres.drop_database(name))


@pytest.fixture(scope="session")
def ledger_template(postgres: PostgresServer) -> Iterator[str]:
    """The name of a database with the service's schema, from which others are copied."""
    name = run(postgres.create_database())
    run(upgrade(Settings(database_url=SecretStr(postgres.dsn(name)))))
    yield name
    run(postgres.drop_database(name))


@pytest.fixture
def ledger_database(postgres: PostgresServer, ledger_template: str) -> Iterator[str]:
    name = run(postgres.create_database(template=ledger_template))
    yield postgres.dsn(name)
    run(postgres.drop_database(name))
