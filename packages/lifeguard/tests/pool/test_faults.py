"""What keeps connections from being made: its class, what to do, and how often it is tried again."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from time import monotonic

import asyncpg
import pytest
from lifeguard.pool import Connector, NoHostServes, fault_of, opener
from lifeguard.pool.faults import NO_WRITABLE_SERVER, TOO_MANY_CONNECTIONS, OtherServer, ReadOnlyServer, stays
from lifeguard.pool.opener import ceiling_of
from lifeguard.testing.proxy import HOST, Proxy
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch

Dsn = Callable[[PostgresServer], str]


@pytest.fixture
async def role(postgres: PostgresServer) -> AsyncIterator[str]:
    """A role that may not connect to the database `private`, and to others at most once."""
    async with postgres.connect() as admin:
        await admin.execute(f"CREATE ROLE guest LOGIN PASSWORD '{postgres.password}' CONNECTION LIMIT 1")
        await admin.execute("CREATE DATABASE private")
        await admin.execute("REVOKE CONNECT ON DATABASE private FROM PUBLIC")
        yield "guest"
        await admin.execute("DROP DATABASE private")
        await admin.execute("DROP ROLE guest")


@pytest.mark.parametrize(
    ("name", "permanent", "dsn", "options"),
    [
        ("authentication", True, PostgresServer.dsn, {"password": "wrong"}),
        ("authentication", True, PostgresServer.dsn, {"user": "nobody"}),
        ("permission", True, lambda server: server.dsn("private", user="guest"), {}),
        ("unknown_database", True, lambda server: server.dsn("nowhere"), {}),
        ("tls", True, PostgresServer.dsn, {"ssl": "require"}),
        ("parameter", True, PostgresServer.dsn, {"server_settings": {"pgbouncer": "true"}}),
        ("parameter", True, PostgresServer.dsn, {"server_settings": {"work_mem": "much"}}),
        ("parameter", True, PostgresServer.dsn, {"server_settings": {"max_connections": "5"}}),
        ("no_matching_server", False, PostgresServer.dsn, {"target_session_attrs": "standby"}),
        ("unreachable", False, lambda _: f"postgresql://u:p@{HOST}:{unused_port()}/x", {}),
        ("unreachable", False, lambda _: "postgresql://u:p@/x?host=/nowhere", {}),
        ("unknown_host", False, lambda _: "postgresql://u:p@no.such.host.invalid/x", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("role")
async def test_its_class(
    postgres: PostgresServer, name: str, permanent: bool, dsn: Dsn, options: dict[str, object]
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whichever class
        await Connector(dsn(postgres), 3, None, options).connect()
    assert (fault_of(caught.value).name, stays(caught.value)) == (name, permanent)


@pytest.mark.parametrize(
    ("said", "name", "permanent"),
    [
        ("unsupported startup parameter: lock_timeout", "parameter", True),
        ("unsupported startup parameter in options: lock_timeout", "parameter", True),
        ("no more connections allowed (max_client_conn)", "too_many_connections", False),
        ("SASL authentication failed", "authentication", True),
        ("no such user: app", "authentication", True),
        ("no such database: ledger", "unknown_database", True),
        ("pgbouncer cannot connect to server", "unreachable", False),
        ("server login has been failing, try again later (server_login_retry)", "unreachable", False),
        ("client_login_timeout (server down)", "unreachable", False),
        ("pooler is shut down", "unreachable", False),
        ("query_wait_timeout", "unreachable", False),
    ],
)
async def test_what_a_pooler_says_is_told_apart_by_its_words(
    proxy: Proxy, said: str, name: str, permanent: bool
) -> None:
    """PgBouncer's, byte for byte. All have the same SQLSTATE."""
    proxy.hold_new = True
    attempt = asyncio.create_task(Connector(proxy.dsn, 3, None, {}).connect())
    await eventually(lambda: proxy.links)
    fields = f"SFATAL\0C08P01\0M{said}\0\0".encode()
    await proxy.links[0].say(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
    with pytest.raises(asyncpg.ProtocolViolationError) as caught:
        await attempt
    assert (fault_of(caught.value).name, stays(caught.value)) == (name, permanent)


def test_of_several_hosts_the_most_telling_reason_decides() -> None:
    full, gone = asyncpg.TooManyConnectionsError("full"), ConnectionRefusedError("gone")
    wrong = asyncpg.InvalidPasswordError("wrong")
    assert fault_of(NoHostServes({"a": gone, "b": full, "c": OtherServer("no")})) is TOO_MANY_CONNECTIONS
    assert fault_of(NoHostServes({"a": gone, "b": ReadOnlyServer("no")})) is NO_WRITABLE_SERVER
    assert not stays(NoHostServes({"a": wrong, "b": gone}))
    assert stays(NoHostServes({"a": wrong, "b": wrong}))


class TestTelling:
    async def test_what_stays_is_told_once_with_what_to_do(
        self, make_pool: MakePool, postgres: PostgresServer, events: Events
    ) -> None:
        pool = await make_pool(postgres.dsn(), password="wrong", ready=False)
        await eventually(lambda: pool.stats().open_failures >= 4)
        (event,) = events.named("open_blocked")
        assert event.level == "error"
        assert event.details["fault"] == pool.stats().fault == "authentication"
        assert "pg_hba.conf" in str(event.details["advice"])
        assert event.details["host"] == f"127.0.0.1:{postgres.port}"
        assert {failure.level for failure in events.named("open_failed")} == {"debug"}

    async def test_what_may_pass_is_told_as_before(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(f"postgresql://u:p@{HOST}:{unused_port()}/x", ready=False)
        await eventually(lambda: pool.stats().open_failures >= 3)
        assert [event.level for event in events.named("open_failed")][:2] == ["warning", "debug"]
        assert str(events.named("open_failed")[0].details["host"]).startswith(f"{HOST}:")
        assert events.named("open_blocked") == []
        assert pool.stats().fault == "unreachable"


class TestBackOff:
    @pytest.mark.parametrize(
        ("failures", "outage", "permanent", "ceiling"),
        [
            (0, 0, False, 0.05),
            (2, 0.1, False, 0.2),
            (9, 1.0, False, 0.25),  # a short outage is made longer by a quarter of a second at most
            (9, 12.0, False, 0.6),  # a longer one by a twentieth
            (99, 3600, False, 2.0),
            (0, 0, True, 0.05),
            (9, 4.0, True, 2.0),
            (999999, 3600, True, 8.0),
        ],
    )
    def test_its_ceiling_grows_with_the_outage(
        self, failures: int, outage: float, permanent: bool, ceiling: float
    ) -> None:
        assert ceiling_of(failures, outage, permanent=permanent) == pytest.approx(ceiling)

    async def test_a_check_that_succeeds_ends_it(
        self, make_pool: MakePool, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server answers on an old connection, so the next attempt does not wait its time out."""
        pool = await make_pool(proxy.dsn, min_size=1, max_size=2, validate_after=0)
        monkeypatch.setattr(opener, "ceiling_of", lambda *_, **__: 60.0)
        monkeypatch.setattr(random, "uniform", lambda _, highest: highest)
        proxy.refuse_new = True
        await pool.resize(min_size=2)
        await eventually(lambda: pool.stats().open_failures)
        proxy.refuse_new = False
        assert await pool.fetchval("SELECT 1") == 1
        async with Stopwatch() as watch:
            await eventually(lambda: pool.get_size() == 2)
        assert watch.seconds < 2 * opener.SHORT_OUTAGE_CEILING

    async def test_a_server_that_is_full_is_not_asked_more_often_for_answering(
        self, make_pool: MakePool, postgres: PostgresServer, role: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pool = await make_pool(postgres.dsn(user=role), min_size=1, max_size=2, validate_after=0)
        monkeypatch.setattr(opener, "ceiling_of", lambda *_, **__: 60.0)
        monkeypatch.setattr(random, "uniform", lambda _, highest: highest)
        await pool.resize(min_size=2)
        await eventually(lambda: pool.stats().open_failures)
        for _ in range(5):
            assert await pool.fetchval("SELECT 1") == 1
        assert pool._state.retry_in(monotonic()) > 2 * opener.SHORT_OUTAGE_CEILING
        await pool.drain(1)

    async def test_a_rotated_password_is_picked_up_without_waiting_it_out(
        self, make_pool: MakePool, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = ["wrong"]
        monkeypatch.setattr(opener, "ceiling_of", lambda *_, **__: 60.0)
        monkeypatch.setattr(random, "uniform", lambda _, highest: highest)
        pool = await make_pool(postgres.dsn(), password=lambda: secret[0], idle_timeout=0.4, ready=False)
        await eventually(lambda: pool.stats().fault == "authentication")
        secret[0] = postgres.password
        async with Stopwatch() as watch:
            await eventually(lambda: pool.get_idle_size() == 1)
        assert watch.seconds < 1
