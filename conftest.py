"""What the tests here and those of the engine may ask for besides the fixtures of `lifeguard.testing`."""

import asyncio
import os
from collections.abc import Callable

import hypothesis
import pytest
import uvloop
from lifeguard.settings.environment import secrets_read
from lifeguard.web import layer

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("default", hypothesis.settings(deadline=None))
hypothesis.settings.load_profile("default")

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
    parser.addoption(
        "--protections-apart",
        action="store_true",
        help="have requests go through the engine's middlewares one by one, as where others are in between",
    )
    parser.addoption(
        "--through-pgbouncer",
        action="store_true",
        help="have the service's tests whose conftest.py knows of it reach their databases through PgBouncer:"
        " $PGBOUNCER, or the one that is installed",
    )


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = config.getoption("--loop")
    return {name: LOOPS[name]}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--protections-apart"):
        layer.TOGETHER = False
    # The servers of the tests have no TLS. To ask each of them for it would double the time to connect.
    os.environ.setdefault("PGSSLMODE", "disable")


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> None:
    """What one test takes for a password is a word like any other to the next one."""
    secrets_read.clear()


@pytest.fixture
def database_first(request: pytest.FixtureRequest) -> None:
    """For whoever connects: a database of the test's own is there before it and goes after it. A session in
    the middle of its start would hold up the DROP."""
    for name in {"database_url", "migrated_database"} & set(request.fixturenames):
        request.getfixturevalue(name)
