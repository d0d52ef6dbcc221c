"""The fixtures of `lifeguard-pg[testing]`.

postgres          one server for the whole run; whoever stops it starts it again
database_url      a new, empty database on `postgres`
server_factory    servers of a test's own, with their own parameters
cluster           the directory of a cluster to copy further servers from
proxy             with pytest-asyncio: a proxy before `postgres` that can be slow, silent or rude
replication       with pytest-asyncio: a primary and its standby, with a `proxy` in between
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from lifeguard.testing.servers import PostgresServer, copy_cluster, create_cluster, server_directory

T = TypeVar("T")
ServerFactory = Callable[..., Awaitable[PostgresServer]]


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("asyncio"):
        from lifeguard.testing import faults  # noqa: PLC0415 - what it imports may not be installed

        config.pluginmanager.register(faults, "lifeguard-faults")


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
    """A server for the whole run, with max_connections=200; what stops it starts it again."""
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


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a new, empty database, which is dropped afterwards with all its sessions."""
    name = run(postgres.create_database())
    yield postgres.dsn(name)
    run(postgres.drop_database(name))
