"""One name before two servers: the pool leaves the one that takes no writes any more."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import asyncpg
import pytest
from lifeguard.pool import NO_WRITABLE_SERVER, Connector, Pool, PoolError, opener
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.proxy import Proxy, full_backlog
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest
from packages.lifeguard.tests.pool.borrowers import on_ports
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch

REFUSED = (asyncpg.ReadOnlySQLTransactionError,)


@pytest.fixture
async def primary(server_factory: ServerFactory) -> PostgresServer:
    return await server_factory()


@pytest.fixture
async def standby(server_factory: ServerFactory, primary: PostgresServer) -> PostgresServer:
    server = await server_factory()
    await server.follow(primary)
    return server


@pytest.fixture
async def name(primary: PostgresServer) -> AsyncIterator[Proxy]:
    """What the pool knows the servers by; it leads to the primary at first."""
    async with Proxy(primary.dsn()).serve() as proxy:
        yield proxy


async def write(pool: Pool) -> int:
    """Write, and say where."""
    await pool.execute("CREATE SCHEMA written; DROP SCHEMA written")
    port: int = await pool.fetchval("SELECT inet_server_port()")
    return port


async def is_refused(pool: Pool) -> bool:
    try:
        await write(pool)
    except REFUSED:
        return True
    return False


async def writes_to(pool: Pool, server: PostgresServer) -> bool:
    try:
        return await write(pool) == server.port
    except (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False


class TestOneName:
    async def test_writes_reach_the_promoted_server_although_the_old_one_lives_on_read_only(
        self,
        make_pool: MakePool,
        primary: PostgresServer,
        standby: PostgresServer,
        name: Proxy,
        events: Events,
    ) -> None:
        pool = await make_pool(name.dsn, min_size=3, max_size=3, target_session_attrs="read-write")
        assert await write(pool) == primary.port
        await primary.set("default_transaction_read_only", "on")
        await eventually(lambda: is_refused(pool))
        await eventually(lambda: pool.stats().fault == NO_WRITABLE_SERVER)
        assert await pool.fetchval("SELECT inet_server_port()") == primary.port  # reads go on
        await standby.promote()
        name.lead_to(standby.dsn())
        async with Stopwatch() as watch:
            await eventually(lambda: writes_to(pool, standby))
        assert watch.seconds < opener.HIGHEST_CEILING
        for _ in range(5):
            assert await write(pool) == standby.port
        assert pool.stats().fault is None
        assert events.named("connections_expired")[0].details["why"] == "read_only"
        await pool.drain(1)

    async def test_an_attempt_that_it_leaves_unanswered_does_not_keep_the_pool_from_the_next_server(
        self, make_pool: MakePool, primary: PostgresServer, standby: PostgresServer, name: Proxy
    ) -> None:
        """A proxy gives a connection to a server that is gone, and keeps its client waiting."""
        pool = await make_pool(
            name.dsn, max_size=1, connect_timeout=60, acquire_timeout=60, outage_patience=60
        )
        assert await write(pool) == primary.port
        before = name.accepted
        name.hold_new = True
        name.reset_links()
        await eventually(lambda: pool.get_size() == 0)
        writing = asyncio.create_task(write(pool))
        await eventually(lambda: name.accepted > before)
        await standby.promote()
        name.lead_to(standby.dsn())
        name.hold_new = False  # for those who come now
        assert await writing == standby.port
        assert pool.stats().open_failures == 0
        await pool.drain(1)

    async def test_a_server_that_takes_its_time_at_the_start_is_asked_once(
        self, make_pool: MakePool, primary: PostgresServer, name: Proxy
    ) -> None:
        name.hold_new = True
        pool = await make_pool(name.dsn, min_size=1, max_size=1, connect_timeout=0.4, ready=False)
        await eventually(lambda: pool.stats().open_failures >= 3)
        assert name.accepted <= pool.stats().open_failures + 1
        name.resume()

    async def test_a_demoted_server_that_restarts_as_a_standby_is_not_joined_again(
        self, make_pool: MakePool, primary: PostgresServer, standby: PostgresServer, name: Proxy
    ) -> None:
        pool = await make_pool(name.dsn, min_size=2, max_size=3, target_session_attrs="read-write")
        await primary.stop()
        primary.make_standby()
        await standby.promote()
        await primary.start()
        await eventually(lambda: pool.stats().fault == NO_WRITABLE_SERVER)
        assert pool.get_size() == 0
        name.lead_to(standby.dsn())
        async with Stopwatch() as watch:
            await eventually(lambda: writes_to(pool, standby))
        assert watch.seconds < opener.HIGHEST_CEILING
        await pool.drain(1)


class TestLoneServer:
    async def test_a_demotion_that_no_write_noticed_is_found_by_the_health_check(
        self, make_pool: MakePool, primary: PostgresServer
    ) -> None:
        pool = await make_pool(
            primary.dsn(), max_size=2, health_check_interval=0.1, target_session_attrs="read-write"
        )
        await primary.set("default_transaction_read_only", "on")
        await eventually(lambda: pool.stats().fault == NO_WRITABLE_SERVER)
        await primary.set("default_transaction_read_only", "off")
        await eventually(lambda: pool.stats().fault is None)
        await pool.drain(1)

    async def test_it_makes_the_pool_look_and_not_churn(
        self, make_pool: MakePool, primary: PostgresServer, events: Events
    ) -> None:
        pool = await make_pool(
            primary.dsn(), min_size=4, max_size=4, max_lifetime=0.8, target_session_attrs="read-write"
        )
        await primary.set("default_transaction_read_only", "on")
        await eventually(lambda: is_refused(pool))
        await eventually(lambda: pool.stats().open_failures)
        before = pool.stats()
        started = monotonic()
        while pool.stats().open_failures < before.open_failures + 8:
            assert await is_refused(pool)
            assert await pool.fetchval("SELECT 1") == 1
        assert monotonic() - started > 8 * opener.SHORT_OUTAGE_CEILING / 8  # no storm of attempts
        after = pool.stats()
        assert (after.opened, after.closed) == (before.opened, before.closed)
        assert after.size >= 2  # there is room to look for one, and one's lifetime may have ended before
        assert len(events.named("server_read_only")) == 1
        await primary.set("default_transaction_read_only", "off")
        await eventually(lambda: pool.get_idle_size() == 4)
        await write(pool)
        await pool.drain(1)

    async def test_a_pool_whose_connections_are_all_in_use_looks_once_one_is_returned(
        self, make_pool: MakePool, primary: PostgresServer
    ) -> None:
        pool = await make_pool(primary.dsn(), min_size=2, max_size=2, target_session_attrs="read-write")
        held = [await pool.acquire() for _ in range(2)]
        await primary.set("default_transaction_read_only", "on")

        async def refused() -> bool:
            try:
                await held[0].execute("CREATE SCHEMA written")
                await held[0].execute("DROP SCHEMA written")
            except REFUSED:
                return True
            return False

        await eventually(refused)
        await pool.release(held[0])
        await eventually(lambda: pool.stats().open_failures)
        assert pool.stats().used == pool.stats().size == 1
        await pool.release(held[1])
        await primary.set("default_transaction_read_only", "off")
        await eventually(lambda: pool.get_idle_size() == 2)
        await pool.drain(1)

    @pytest.mark.parametrize("role", ["any", "primary"])
    async def test_a_pool_that_does_not_ask_for_read_write_stays(
        self, make_pool: MakePool, primary: PostgresServer, role: str
    ) -> None:
        pool = await make_pool(primary.dsn(), health_check_interval=0.1, target_session_attrs=role)
        await primary.set("default_transaction_read_only", "on")
        await eventually(lambda: is_refused(pool))
        for _ in range(5):
            assert await is_refused(pool)
            await eventually(lambda: at_rest(pool.stats()))
        assert pool.stats().closed == {}
        assert pool.stats().fault is None
        await pool.drain(1)


async def test_roles_find_the_same_server_in_either_order(
    primary: PostgresServer, standby: PostgresServer
) -> None:
    """As libpq; `prefer-standby` takes a primary only when no host is a standby."""
    roles = {
        "primary": primary,
        "read-write": primary,
        "standby": standby,
        "read-only": standby,
        "prefer-standby": standby,
    }
    for ports in ((primary.port, standby.port), (standby.port, primary.port)):
        for role, server in roles.items():
            dsn = on_ports(primary, *ports)
            connection = await Connector(dsn, 3, None, {"target_session_attrs": role}).connect()
            assert await connection.fetchval("SELECT inet_server_port()") == server.port, role
            await connection.close(timeout=5)


@pytest.mark.parametrize("of", ["hosts", "addresses"])
async def test_a_standby_is_asked_until_it_is_promoted_while_the_old_primary_is_a_black_hole(
    primary: PostgresServer, standby: PostgresServer, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    """For a minute: one attempt that failed only then would find the new primary a minute later."""
    async with Proxy(standby.dsn(), host="127.0.0.2").serve() as new:
        with full_backlog(new.port) as port:
            if of == "hosts":
                dsn = on_ports(primary, port).replace(f":{port}", f":{port},127.0.0.2:{port}")
            else:
                loop = asyncio.get_running_loop()
                both = [await loop.getaddrinfo(host, port) for host in ("127.0.0.1", "127.0.0.2")]

                async def lookup(_: str, port: int) -> list[tuple[object, ...]]:
                    return [*both[0], *both[1]]

                monkeypatch.setattr("lifeguard.pool.addresses.lookup", lookup)
                dsn = on_ports(primary, port).replace("127.0.0.1", "database.test")
            connector = Connector(dsn, 60, None, {"target_session_attrs": "read-write"})
            attempt = asyncio.create_task(connector.connect())
            await eventually(lambda: new.accepted >= 2)
            assert not attempt.done()
            await standby.promote()
            connection = await asyncio.wait_for(attempt, 30)
            assert await connection.fetchval("SELECT inet_server_port()") == standby.port
            await connection.close(timeout=5)


async def test_a_name_that_moves_to_the_promoted_server_is_followed(
    make_pool: MakePool,
    primary: PostgresServer,
    standby: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both listen on the same port of different loopback addresses, as servers behind a DNS name do."""
    addresses = {"now": "127.0.0.1"}
    async with (
        Proxy(primary.dsn()).serve() as at_first,
        Proxy(standby.dsn(), at_first.port, host="127.0.0.2").serve(),
    ):
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(
            "lifeguard.pool.addresses.lookup", lambda _, port: loop.getaddrinfo(addresses["now"], port)
        )
        dsn = at_first.dsn.replace("127.0.0.1", "database.test")
        pool = await make_pool(dsn, min_size=2, max_size=2, target_session_attrs="read-write")
        assert await write(pool) == primary.port
        await standby.promote()
        await primary.set("default_transaction_read_only", "on")
        await eventually(lambda: is_refused(pool))
        addresses["now"] = "127.0.0.2"
        async with Stopwatch() as watch:
            await eventually(lambda: writes_to(pool, standby))
        assert watch.seconds < opener.HIGHEST_CEILING
        await pool.drain(1)
