"""What the tests here and those of the engine may ask for besides the fixtures of `lifeguard.testing`."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator

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

    parser.addoption(
        "--without-plans",
        action="store_true",
        help="have FastAPI answer all requests, but for services whose settings say `plans`",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: most of a test is waiting for what a server or a client does."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    name = config.getoption("--loop")
    return {name: LOOPS[name]}


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--without-plans"):
        _leave_all_to_fastapi()
    if config.getoption("--protections-apart"):
        layer.TOGETHER = False
    # The servers of the tests have no TLS. To ask each of them for it would double the time to connect.
    os.environ.setdefault("PGSSLMODE", "disable")


def _leave_all_to_fastapi() -> None:
    """In the processes that tests start by a variable. Settings that tests make here read none."""
    from lifeguard.service import Service  # noqa: PLC0415 - nobody else needs it here
    from lifeguard.web import plans  # noqa: PLC0415

    install = plans.install

    def install_where_said(service: Service) -> None:
        if "plans" in service.parts["settings"].model_fields_set:
            install(service)

    os.environ["PLANS"] = "false"
    setattr(plans, "install", install_where_said)  # noqa: B010 - a function, to mypy


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> None:
    """What one test takes for a password is a word like any other to the next one."""
    secrets_read.clear()


@pytest.fixture(autouse=True, scope="module")
def _log_level_of_this_module_only() -> Iterator[None]:
    """A service that a module runs here sets the root logger's level: the next module's `caplog` would be
    empty after `critical`."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)


@pytest.fixture
def database_first(request: pytest.FixtureRequest) -> None:
    """For whoever connects: a database of the test's own is there before it and goes after it. A session in
    the middle of its start would hold up the DROP."""
    for name in {"database_url", "migrated_database"} & set(request.fixturenames):
        request.getfixturevalue(name)
