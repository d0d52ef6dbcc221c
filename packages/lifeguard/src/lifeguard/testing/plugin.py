"""The fixtures of `lifeguard-pg[testing]`.

postgres          one server for the whole run; whoever stops it starts it again
database_url      a new, empty database on `postgres`
server_factory    servers of a test's own, with their own parameters
cluster           the directory of a cluster to copy further servers from
pgbouncer         makes a PgBouncer before a server: `async with pgbouncer(url) as front`, `front.url(url)`
proxy             with pytest-asyncio: a proxy before `postgres` that can be slow, silent or rude
replication       with pytest-asyncio: a primary and its standby, with a `proxy` in between

Those of a service, once `service_under_test` says which, are in `service_fixtures`:
migrated_database, service, client, database, saturated, database_down, slow_database, draining.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest

from lifeguard.testing.databases import Databases, run
from lifeguard.testing.pgbouncer import NoPgBouncer, PgBouncer, program
from lifeguard.testing.pgbouncer import pgbouncer as pgbouncer_before
from lifeguard.testing.servers import PostgresServer, copy_cluster, create_cluster, server_directory

__all__ = ["ServerFactory", "run"]

ServerFactory = Callable[..., Awaitable[PostgresServer]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "settings(**values): settings of the service that the test asks for")
    if config.pluginmanager.hasplugin("asyncio"):
        from lifeguard.testing import faults, service_fixtures  # noqa: PLC0415 - may lack what they import

        config.pluginmanager.register(faults, "lifeguard-faults")
        config.pluginmanager.register(service_fixtures, "lifeguard-service")


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


@pytest.fixture(scope="session")
def pgbouncer() -> Callable[..., AbstractAsyncContextManager[PgBouncer]]:
    """`async with pgbouncer(url) as front:` a real one before the server of that URL, in transaction mode;
    `front.url(url)` goes through it. `settings` of it, and `path` of the program, as in
    `lifeguard.testing.pgbouncer`. Skips the test where there is no such program."""
    try:
        return partial(pgbouncer_before, path=program())
    except NoPgBouncer as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def databases(postgres: PostgresServer) -> Iterator[Databases]:
    """Makes and drops databases on `postgres`."""
    databases = Databases(postgres)
    yield databases
    databases.close()


@pytest.fixture
def database_url(postgres: PostgresServer, databases: Databases) -> Iterator[str]:
    """The URL of a new, empty database, which is dropped afterwards with all its sessions."""
    name = databases.create()
    yield postgres.dsn(name)
    databases.drop(name)
