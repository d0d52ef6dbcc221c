"""A name that is unknown for a while, or slow, or led to a black hole, keeps nobody once it is back."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lifeguard.pool import Connector, addresses
from lifeguard.pool.addresses import RedirectedLoop, lookup, resolve
from lifeguard.testing.proxy import HOST, Proxy, full_backlog
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.conftest import MakePool

NAME = "database.test"
OLD = "127.0.0.9"
LONG = 30.0  # seconds: what nobody here waits for
Answer = list[tuple[Any, ...]]


class Resolver:
    """The system's, as threads ask it. A question stays open as long as the name is not known."""

    def __init__(self) -> None:
        self._real: Callable[..., Answer] = socket.getaddrinfo
        self.address: str | None = HOST
        self.asked = 0
        self.slow = threading.Event()
        """Let go of the questions that are open."""

    def getaddrinfo(self, host: str, port: int, **options: Any) -> Answer:
        if host != NAME:
            return self._real(host, port, **options)
        self.asked += 1
        if (address := self.address) is None:
            self.slow.wait(LONG)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    yield resolver
    resolver.slow.set()


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses to which connections were begun."""
    found: list[str] = []

    class Noting(RedirectedLoop):
        async def create_connection(self, *arguments: Any, **options: Any) -> Any:
            found.append(self._address)
            return await super().create_connection(*arguments, **options)

    monkeypatch.setattr("lifeguard.pool.connector.RedirectedLoop", Noting)
    return found


def silent(port: int, *, taken: bool) -> contextlib.AbstractContextManager[object]:
    """At the old address nobody answers: connections are taken, in the kernel, or their SYNs vanish."""
    return socket.create_server((OLD, port), backlog=100) if taken else full_backlog(port, OLD)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done again after a while is done again soon."""
    monkeypatch.setattr("lifeguard.pool.connector.LOOK_AGAIN", 0.05)
    monkeypatch.setattr(addresses, "ASK_AGAIN", 0.05)


async def opened(connector: Connector) -> int:
    """The port of the server to which a session was opened."""
    connection = await connector.connect()
    try:
        return int(await connection.fetchval("SELECT current_setting('port')::int"))
    finally:
        await connection.close(timeout=5)


def by_name(dsn: str) -> str:
    return dsn.replace(HOST, NAME)


@pytest.mark.usefixtures("impatient")
class TestConnector:
    async def test_a_question_that_hangs_is_put_once_more(
        self, postgres: PostgresServer, resolver: Resolver
    ) -> None:
        resolver.address = None
        opening = asyncio.create_task(opened(Connector(by_name(postgres.dsn()), LONG, None, {})))
        await eventually(lambda: resolver.asked >= 3)
        resolver.address = HOST  # the questions that are open hang on
        assert await opening == postgres.port

    @pytest.mark.parametrize("taken", [False, True])
    async def test_a_name_that_moves_while_its_old_address_is_silent_is_followed(
        self, postgres: PostgresServer, resolver: Resolver, tried: list[str], taken: bool
    ) -> None:
        """Where nobody takes the connection it is tried anew: TCP doubles its pauses, on many systems."""
        resolver.address = OLD
        with silent(postgres.port, taken=taken):
            opening = asyncio.create_task(opened(Connector(by_name(postgres.dsn()), LONG, None, {})))
            await eventually(lambda: resolver.asked >= 4)
            resolver.address = HOST
            assert await opening == postgres.port
        assert tried[-1] == HOST
        assert (tried.count(OLD) > 1) is not taken

    async def test_what_ends_well_or_badly_leaves_nothing_under_way(
        self, postgres: PostgresServer, resolver: Resolver
    ) -> None:
        before = asyncio.all_tasks()
        await opened(Connector(by_name(postgres.dsn()), LONG, None, {}))
        with pytest.raises(ConnectionRefusedError):
            await opened(Connector(f"postgresql://u:p@{NAME}:{unused_port()}/x", LONG, None, {}))
        resolver.address = None
        with pytest.raises(TimeoutError, match="was not resolved within"):
            await opened(Connector(by_name(postgres.dsn()), 0.2, None, {}))
        await eventually(lambda: asyncio.all_tasks() <= before)


class TestQuestions:
    async def test_are_few_however_long_the_resolver_hangs(
        self, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(addresses, "ASK_AGAIN", 0.001)
        monkeypatch.setattr(addresses, "MOST_OPEN", 5)
        resolver.address = None
        asking = [asyncio.create_task(resolve(NAME, 1)) for _ in range(3)]
        await eventually(lambda: resolver.asked == 5)
        resolver.slow.set()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(error, socket.gaierror) for error in ended)

    async def test_take_no_thread_from_anybody(self, resolver: Resolver) -> None:
        """The event loop's threads are few, and the process's end waits for them."""
        resolver.address = None
        asking = [asyncio.ensure_future(lookup(NAME, 1)) for _ in range(40)]
        await eventually(lambda: resolver.asked == 40)
        assert await asyncio.to_thread(lambda: "served") == "served"
        threads = [thread for thread in threading.enumerate() if thread.name == f"resolve {NAME}"]
        assert all(thread.daemon for thread in threads)
        for question in asking:
            question.cancel()
        resolver.slow.set()

    def test_that_are_answered_after_the_loop_has_ended_trouble_nobody(self, resolver: Resolver) -> None:
        resolver.address = None

        async def ask() -> threading.Thread:
            asking = asyncio.ensure_future(lookup(NAME, 1))
            await eventually(lambda: resolver.asked)
            asking.cancel()
            (thread,) = [t for t in threading.enumerate() if t.name == f"resolve {NAME}"]
            return thread

        open_before = addresses.open_questions()
        thread = asyncio.run(ask())
        resolver.slow.set()
        thread.join()
        assert addresses.open_questions() == open_before


async def test_a_pool_serves_again_as_soon_as_the_name_is_known_again(
    make_pool: MakePool, postgres: PostgresServer, resolver: Resolver
) -> None:
    """As with the only container of a database: its name is gone while it is down."""
    async with Proxy(postgres.dsn()).serve() as server:
        pool = await make_pool(by_name(server.dsn), min_size=2, max_size=2, connect_timeout=LONG)
        assert await pool.fetchval("SELECT 1") == 1
        resolver.address = None
        asked = resolver.asked
        server.refuse_new = True
        server.reset_links()
        await eventually(lambda: resolver.asked > asked)
        server.resume()
        resolver.address = HOST  # what was asked before hangs on
        await eventually(lambda: pool.get_idle_size() == 2)
        assert await pool.fetchval("SELECT 1") == 1
