"""`secured`: a server for the module, set up by the scripts of `deploy/postgres`; it logs all statements."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.secured import SecuredServer, secured_server

TALKATIVE = {"log_statement": "all", "log_min_duration_statement": "0"}


@pytest.fixture(scope="module")
async def secured(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SecuredServer]:
    async with secured_server(cluster, tmp_path_factory.mktemp("secrets"), TALKATIVE) as server:
        yield server
