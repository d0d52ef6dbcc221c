"""The fixtures that need pytest-asyncio; `plugin` registers them where it is installed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from lifeguard.testing import standby
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.standby import Replication


@pytest_asyncio.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[Proxy]:
    """A proxy before `postgres`; `proxy.dsn` leads through it."""
    async with Proxy(postgres.dsn()).serve() as proxy:
        yield proxy


@pytest_asyncio.fixture
async def replication(cluster: Path) -> AsyncIterator[Replication]:
    """A primary of the test's own and the standby that streams from it."""
    async with standby.replication(cluster) as pair:
        yield pair
