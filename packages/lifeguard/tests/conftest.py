"""The service of the engine's tests, for the fixtures of `lifeguard.testing`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lifeguard.testing import standby
from lifeguard.testing.service import ServiceUnderTest
from lifeguard.testing.standby import Replication

from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings


@pytest.fixture(scope="session")
def service_under_test() -> ServiceUnderTest[Settings]:
    return ServiceUnderTest(create_app, Settings)


@pytest.fixture(scope="session")
async def lasting_pair(cluster: Path) -> AsyncIterator[Replication]:
    async with standby.replication(cluster) as pair:
        async with pair.primary.connect() as admin:
            await admin.execute("CREATE TABLE things (id bigserial PRIMARY KEY, n int NOT NULL DEFAULT 1)")
        await pair.caught_up()
        yield pair


@pytest.fixture
async def replicated(lasting_pair: Replication) -> AsyncIterator[Replication]:
    """A primary with a table `things`, and its standby: for tests that stop nothing but its replay."""
    yield lasting_pair
    await lasting_pair.replay(paused=False)
