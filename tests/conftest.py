"""What every test may ask for besides the servers and databases of `lifeguard.testing`.

ledger_database   a new database with the service's schema on `postgres`
"""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop
from lifeguard.database.migrations import upgrade
from lifeguard.settings.environment import secrets_read
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer
from pydantic import SecretStr

from app.settings import Settings

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


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
