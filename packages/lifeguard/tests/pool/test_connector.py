"""Hosts and the addresses of a name: staggered, each with its own share of time and its own reason."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Connector, NoHostServes
from lifeguard.pool.race import STAGGER
from lifeguard.testing.proxy import HOST, Proxy, full_backlog
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import on_ports
from packages.lifeguard.tests.stopwatch import Stopwatch

TIMEOUT = 3.0
NAME = "database.test"


@contextmanager
def frozen(address: str = HOST, port: int = 0) -> Iterator[int]:
    """A listener that accepts, in the kernel, and says nothing."""
    with socket.create_server((address, port), backlog=100) as listener:
        yield listener.getsockname()[1]


@contextmanager
def nobody() -> Iterator[int]:
    yield unused_port()


async def seconds_of(connector: Connector) -> float:
    """To open a session that works."""
    async with Stopwatch() as watch:
        connection = await connector.connect()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close(timeout=5)
    return watch.seconds


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to; none at first."""
    names: dict[str, list[str]] = {}

    async def lookup(host: str, port: int) -> list[tuple[object, ...]]:
        if host not in names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr("lifeguard.pool.addresses.lookup", lookup)
    return names


class TestHosts:
    @pytest.mark.parametrize("first", [full_backlog, frozen, nobody])
    async def test_a_dead_first_host_costs_a_quarter_of_a_second_once(
        self, postgres: PostgresServer, first: Callable[[], AbstractContextManager[int]]
    ) -> None:
        with first() as dead:
            connector = Connector(on_ports(postgres, dead, postgres.port), TIMEOUT, None, {})
            assert await seconds_of(connector) < STAGGER + 0.5
            assert await seconds_of(connector) < STAGGER

    async def test_many_dead_hosts_are_passed_over_one_after_the_other(
        self, postgres: PostgresServer
    ) -> None:
        with frozen() as one, frozen() as two, frozen() as three:
            dsn = on_ports(postgres, one, two, three, postgres.port)
            began = monotonic()
            assert await seconds_of(Connector(dsn, TIMEOUT, None, {})) < TIMEOUT
            assert monotonic() - began >= 3 * STAGGER

    async def test_a_slow_host_is_taken_all_the_same_and_nobody_else_s_connection_is_left(
        self, postgres: PostgresServer
    ) -> None:
        before = asyncio.all_tasks()
        async with Proxy(postgres.dsn()).serve() as slow:
            slow.latency = 0.05
            with frozen() as silent:
                connector = Connector(on_ports(postgres, slow.port, silent), TIMEOUT, None, {})
                assert await seconds_of(connector) >= 0.1
            await eventually(lambda: not slow.links)
        await eventually(lambda: asyncio.all_tasks() <= before)

    async def test_a_loser_that_had_connected_is_closed(self, postgres: PostgresServer, proxy: Proxy) -> None:
        proxy.hold_new = True
        dsn = on_ports(postgres, proxy.port, postgres.port)
        await seconds_of(Connector(dsn, TIMEOUT, None, {}))
        proxy.resume()
        await eventually(lambda: not proxy.links)

    async def test_every_host_s_own_reason_is_named(self, postgres: PostgresServer, limited: str) -> None:
        gone = unused_port()
        with full_backlog() as black_hole:
            login = limited.rpartition("@")[0]
            dsn = f"{login}@{HOST}:{black_hole},{HOST}:{gone},{HOST}:{postgres.port}/postgres"
            with pytest.raises(NoHostServes) as caught:
                await Connector(dsn, 0.5, None, {"target_session_attrs": "read-write"}).connect()
        text = str(caught.value)
        assert "\n" not in text
        assert f"{HOST}:{black_hole}: TimeoutError: no answer" in text
        assert f"{HOST}:{gone}: ConnectionRefusedError" in text
        assert f"{HOST}:{postgres.port}: TooManyConnectionsError: too many connections for role" in text

    async def test_a_wrong_password_ends_it_unless_somebody_under_way_serves(
        self, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        with frozen() as silent:
            dsn = on_ports(postgres, postgres.port, proxy.port, silent)
            with pytest.raises(asyncpg.InvalidPasswordError):
                await Connector(dsn, TIMEOUT, None, {"password": "wrong"}).connect()
        assert proxy.accepted == 0

    @pytest.mark.parametrize(
        ("role", "served"),
        [
            ("any", 0),
            ("read-write", 0),
            ("primary", 0),
            ("standby", None),
            ("prefer-standby", 0),
            ("read-only", None),
        ],
    )
    async def test_roles_are_libpqs(self, postgres: PostgresServer, role: str, served: int | None) -> None:
        dsn = on_ports(postgres, postgres.port, unused_port())
        connector = Connector(dsn, TIMEOUT, None, {"target_session_attrs": role})
        if served is None:
            with pytest.raises(NoHostServes, match="target_session_attrs"):
                await connector.connect()
        else:
            await seconds_of(connector)

    async def test_a_socket_needs_no_resolver(self, postgres: PostgresServer) -> None:
        await seconds_of(Connector(postgres.dsn(unix=True), TIMEOUT, None, {}))


@pytest.fixture
async def limited(postgres: PostgresServer) -> AsyncIterator[str]:
    """The server as seen by a role that may have no connection."""
    async with postgres.connect() as admin:
        await admin.execute(f"CREATE ROLE shut_out LOGIN PASSWORD '{postgres.password}' CONNECTION LIMIT 0")
        yield postgres.dsn(user="shut_out")
        await admin.execute("DROP ROLE shut_out")


class TestAddresses:
    """Of one name."""

    def dsn(self, postgres: PostgresServer) -> str:
        return postgres.dsn().replace(HOST, NAME)

    async def test_a_dead_first_one_costs_its_share_once(
        self, postgres: PostgresServer, resolver: dict[str, list[str]]
    ) -> None:
        resolver[NAME] = ["127.0.0.9", HOST]
        connector = Connector(self.dsn(postgres), TIMEOUT, None, {})
        with frozen("127.0.0.9", postgres.port):
            assert await seconds_of(connector) < STAGGER + 0.5
            assert await seconds_of(connector) < STAGGER

    async def test_all_share_the_host_s_connect_timeout(
        self, postgres: PostgresServer, resolver: dict[str, list[str]]
    ) -> None:
        resolver[NAME] = ["127.0.0.9", "127.0.0.10"]
        with frozen("127.0.0.9", postgres.port), frozen("127.0.0.10", postgres.port):
            async with Stopwatch() as watch:
                with pytest.raises(NoHostServes) as caught:
                    await Connector(self.dsn(postgres), 0.4, None, {}).connect()
            assert watch.seconds < 0.4 + 0.2
        for address in resolver[NAME]:
            assert f"{NAME}:{postgres.port} [{address}]: TimeoutError" in str(caught.value)

    async def test_a_cancel_request_goes_to_the_one_that_was_reached(
        self, postgres: PostgresServer, resolver: dict[str, list[str]]
    ) -> None:
        """The name itself leads elsewhere, or nowhere, as here."""
        resolver[NAME] = ["127.0.0.9", HOST]
        connection = await Connector(self.dsn(postgres), TIMEOUT, None, {}).connect()
        with pytest.raises(TimeoutError):
            await connection.execute("SELECT pg_sleep(10)", timeout=0.05)
        async with asyncio.timeout(TIMEOUT):
            assert await connection.fetchval("SELECT 1") == 1
        await connection.close(timeout=5)

    async def test_a_name_that_nobody_knows_is_one_host_s_reason(
        self, postgres: PostgresServer, resolver: dict[str, list[str]]
    ) -> None:
        resolver[NAME] = [HOST]
        dsn = self.dsn(postgres).replace(NAME, f"unknown.test:1,{NAME}")
        await seconds_of(Connector(dsn, TIMEOUT, None, {}))
        with pytest.raises(socket.gaierror):
            await Connector("postgresql://u:p@unknown.test/x", TIMEOUT, None, {}).connect()

    async def test_a_name_is_looked_up_anew_at_every_attempt(
        self, postgres: PostgresServer, resolver: dict[str, list[str]]
    ) -> None:
        resolver[NAME] = ["127.0.0.9"]
        connector = Connector(self.dsn(postgres), TIMEOUT, None, {})
        with pytest.raises(ConnectionRefusedError):
            await connector.connect()
        resolver[NAME] = [HOST]
        await seconds_of(connector)

    async def test_a_resolver_that_hangs_is_bounded_and_does_not_keep_the_next_host(
        self, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def hang(_host: str, _port: int) -> list[tuple[object, ...]]:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr("lifeguard.pool.addresses.lookup", hang)
        with pytest.raises(TimeoutError, match=f"{NAME} was not resolved"):
            await Connector(self.dsn(postgres), 0.2, None, {}).connect()
        dsn = self.dsn(postgres).replace(NAME, f"{NAME}:1,{HOST}")
        assert await seconds_of(Connector(dsn, TIMEOUT, None, {})) < STAGGER + 0.5


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """`certificate(name)`: a certificate that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")

    def make(name: str) -> tuple[Path, Path]:
        key, crt = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
        command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        command += ["-keyout", str(key), "-out", str(crt), "-subj", f"/CN={name}"]
        command += ["-addext", f"subjectAltName=DNS:{name}"]
        subprocess.run(command, check=True, capture_output=True)
        return crt, key

    return make


@asynccontextmanager
async def tls_before(postgres: PostgresServer, crt: Path, key: Path) -> AsyncIterator[int]:
    """A port that speaks TLS as PostgreSQL does, and passes on to a server that cannot."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)  # SSLRequest
            writer.write(b"S")
            await writer.start_tls(context)
            from_server, to_server = await asyncio.open_connection(HOST, postgres.port)
            await asyncio.gather(copy(reader, to_server), copy(from_server, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def driver_address(connection: Any) -> object:
    """Where asyncpg sends cancel requests."""
    return connection._addr


class TestCertificate:
    """It must be the name's, whichever address was reached."""

    @pytest.mark.parametrize("addresses", [[HOST], ["127.0.0.9", HOST]], ids=str)
    @pytest.mark.parametrize("whose", [NAME, "somebody.else"])
    async def test_is_verified_against_the_name(
        self,
        postgres: PostgresServer,
        resolver: dict[str, list[str]],
        certificate: Callable[[str], tuple[Path, Path]],
        whose: str,
        addresses: list[str],
    ) -> None:
        crt, key = certificate(whose)
        resolver[NAME] = addresses
        async with tls_before(postgres, crt, key) as port:
            dsn = on_ports(postgres, port).replace(HOST, NAME)
            dsn = dsn.replace("prefer", f"verify-full&sslrootcert={crt}")
            connector = Connector(dsn, TIMEOUT, None, {})
            if whose == NAME:
                connection = await connector.connect()
                assert await connection.fetchval("SELECT 1") == 1
                # A cancel request is verified as well, and asyncpg does that against what it connects to.
                assert driver_address(connection) == (NAME, port)
                connection.terminate()
            else:
                with pytest.raises(
                    (ssl.SSLCertVerificationError, NoHostServes), match="certificate verify failed"
                ):
                    await connector.connect()
