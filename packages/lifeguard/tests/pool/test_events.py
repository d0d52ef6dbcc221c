"""One line of the log is enough to find a session in the server's log."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool, PoolEvent
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.conftest import Events, MakePool


async def session_of(lease: Lease) -> tuple[int, str]:
    """Its process and the client's address, as the server has them."""
    row = await lease.fetchrow(
        "SELECT pg_backend_pid(), host(inet_client_addr()) || ':' || inet_client_port()"
    )
    assert row is not None
    return row[0], row[1]


class Scene:
    """A pool with a lease, and the means to bring about each event."""

    def __init__(self, server: PostgresServer, pool: Pool, lease: Lease) -> None:
        self.server = server
        self.pool = pool
        self.lease = lease

    async def killed_in_a_statement(self) -> None:
        napping = asyncio.create_task(self.lease.execute("SELECT pg_sleep(30)"))
        await eventually(self._napping)
        await self.server.kill_backends(application_name=self.pool.name)
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await napping
        await self.pool.release(self.lease)

    async def _napping(self) -> bool:
        sessions = await self.server.backends(application_name=self.pool.name)
        return [session["wait_event"] for session in sessions] == ["PgSleep"]

    async def killed_while_idle(self) -> None:
        await self.pool.release(self.lease)
        await self.server.kill_backends(application_name=self.pool.name)

    async def not_fit_again(self) -> None:
        await self.pool.release(self.lease)

    async def held_for_long(self) -> None:
        await eventually(lambda: self.pool.stats().leaks.get("overdue"))
        await self.pool.release(self.lease)

    async def borrowed_twice(self) -> None:
        async with self.pool.acquire():
            pass
        await self.pool.release(self.lease)

    async def schema_changed(self) -> None:
        await self.lease.reload_schema_state()
        await self.pool.release(self.lease)


async def divide(_: asyncpg.Connection) -> None:
    raise asyncpg.DivisionByZeroError("division by zero")


@pytest.mark.parametrize(
    ("happens", "event", "sqlstate", "options"),
    [
        (Scene.killed_in_a_statement, "connections_suspect", "57P01", {}),
        (Scene.killed_in_a_statement, "connection_closed", "57P01", {}),
        (Scene.killed_while_idle, "connections_suspect", None, {}),
        (Scene.not_fit_again, "return_failed", "22012", {"reset": divide}),
        (Scene.not_fit_again, "connection_opened", None, {}),
        (Scene.held_for_long, "lease_overdue", None, {"leak_threshold": 0.01}),
        (Scene.held_for_long, "overdue_lease_returned", None, {"leak_threshold": 0.01}),
        (Scene.schema_changed, "schema_changed", None, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_an_event_names_the_session_that_it_is_about(  # noqa: PLR0917 - a table's columns and its fixtures
    make_pool: MakePool,
    events: Events,
    postgres: PostgresServer,
    happens: Callable[[Scene], Awaitable[None]],
    event: str,
    sqlstate: str | None,
    options: dict[str, object],
) -> None:
    pool = await make_pool(**options)
    lease = await pool.acquire()
    pid, address = await session_of(lease)
    await happens(Scene(postgres, pool, lease))
    await eventually(lambda: events.named(event))
    assert_about(events.named(event)[0], pid, address)
    assert events.named(event)[0].details.get("sqlstate") == sqlstate


async def test_a_nested_borrow_names_both_sessions(make_pool: MakePool, events: Events) -> None:
    pool = await make_pool()
    async with pool.acquire() as first, pool.acquire() as second:
        pid, address = await session_of(second)
        (event,) = events.named("nested_borrow")
        assert_about(event, pid, address)
        assert event.details["already_holding_pid"] == first.get_server_pid()


async def test_a_check_that_fails_names_the_session(
    make_pool: MakePool, events: Events, postgres: PostgresServer, proxy: Proxy
) -> None:
    pool = await make_pool(proxy.dsn, validate_after=0)
    async with pool.acquire() as lease:
        pid = lease.get_server_pid()
    (link,) = proxy.links
    link.silence()
    borrowing = asyncio.ensure_future(pool.acquire())
    await eventually(lambda: pool.stats().validating)
    link.reset()
    await pool.release(await borrowing)
    (event,) = events.named("connections_suspect")
    # The server sees the address of the proxy's end; the log has the one of ours.
    assert_about(event, pid, "{}:{}".format(*link.to_client.get_extra_info("peername")))


async def test_a_failed_attempt_says_what_the_server_said(make_pool: MakePool, events: Events) -> None:
    pool = await make_pool(database="nowhere", ready=False)
    await eventually(lambda: events.named("open_failed"))
    assert events.named("open_failed")[0].details["sqlstate"] == "3D000"
    pool.terminate()


async def test_what_a_drain_cuts_off_is_named(make_pool: MakePool, events: Events) -> None:
    pool = await make_pool()
    lease = await pool.acquire()
    pid = lease.get_server_pid()
    await pool.drain(0.01)
    (event,) = events.named("pool_drained")
    assert event.details["backend_pids"] == [pid]
    with contextlib.suppress(asyncpg.InterfaceError):
        await pool.release(lease)


def assert_about(event: PoolEvent, pid: int, address: str) -> None:
    assert (event.details["backend_pid"], event.details["client_address"]) == (pid, address)
    assert event.stats.max_size > 0
