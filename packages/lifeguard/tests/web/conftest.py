"""What the tests of the web layer share.

serving     the service on a migrated database, the same for all tests of a module that leave it as it was
log         what it has written since it was last asked
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi import APIRouter
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.service import ServiceUnderTest
from lifeguard.testing.service_fixtures import Templates
from lifeguard.testing.serving import Service, until_ready

from packages.lifeguard.tests.inside import service, settings_for

Log = Callable[[], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def module_database(
    postgres: PostgresServer, templates: Templates, service_under_test: ServiceUnderTest[Any]
) -> Iterator[str]:
    name = run(postgres.create_database(template=templates.of(service_under_test)))
    yield postgres.dsn(name)
    run(postgres.drop_database(name))


@pytest.fixture(scope="module")
async def serving(request: pytest.FixtureRequest, module_database: str) -> AsyncIterator[Service]:
    """With the module's `routes` besides its own, and its `SETTINGS`."""
    routes: APIRouter | None = getattr(request.module, "routes", None)
    settings = settings_for(module_database, **getattr(request.module, "SETTINGS", {}))
    async with service(settings, routes=routes) as running:
        await until_ready(running)
        yield running


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        # Not of the test's own client, nor how slow the machine is.
        others = ("http", "lifeguard.event_loop")
        return [line for line in lines if not line["logger"].startswith(others)]

    return read
