"""`secured`: a server for the module, set up by the scripts of `deploy/postgres`; it logs all statements."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.service import ServiceUnderTest
from lifeguard.testing.service_fixtures import Templates

from tests.secured import SecuredServer, secured_server

TALKATIVE = {"log_statement": "all", "log_min_duration_statement": "0"}


@pytest.fixture(scope="module")
async def secured(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredServer]:
    async with secured_server(cluster, tmp_path_factory.mktemp("secrets"), TALKATIVE) as server:
        yield server


@pytest.fixture(scope="module")
def module_database(
    postgres: PostgresServer, templates: Templates, service_under_test: ServiceUnderTest[Any]
) -> Iterator[str]:
    """As `migrated_database`, for all tests of a module."""
    name = run(postgres.create_database(template=templates.of(service_under_test)))
    yield postgres.dsn(name)
    run(postgres.drop_database(name))
