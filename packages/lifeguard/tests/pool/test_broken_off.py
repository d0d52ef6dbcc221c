"""Calls that ended without the server's answer: cancelled, out of time, or failed on this side."""

import asyncio
import contextlib
import gc
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Lease
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import link_of
from packages.lifeguard.tests.pool.conftest import MakePool

Call = Callable[[Lease], Awaitable[Any]]
MUCH = "SELECT n, repeat('x', 100) FROM generate_series(1, 20000) AS n"


class Broken(Exception):
    """What sources and sinks raise here."""


def rows() -> Iterator[tuple[int]]:
    yield (1,)
    raise Broken


async def source() -> AsyncIterator[bytes]:
    yield b"1\n"
    raise Broken


async def sink(_: bytes) -> None:
    raise Broken


async def own_error(_: bytes) -> None:
    raise asyncpg.UniqueViolationError("of another connection")


async def endless_source() -> AsyncIterator[bytes]:
    yield b"1\n"
    await asyncio.Event().wait()


async def endless_sink(_: bytes) -> None:
    await asyncio.Event().wait()


FAILING: dict[str, Call] = {
    "to table": lambda lease: lease.copy_to_table("things", source=source()),
    "records": lambda lease: lease.copy_records_to_table("things", records=rows()),
    "wrong records": lambda lease: lease.copy_records_to_table("things", records=[("x",)]),
    "little from query": lambda lease: lease.copy_from_query("SELECT 1", output=sink),
    "much from query": lambda lease: lease.copy_from_query(MUCH, output=sink),
    "from table": lambda lease: lease.copy_from_table("things", output=own_error),
}
ENDLESS: dict[str, Call] = {
    "to table": lambda lease: lease.copy_to_table("things", source=endless_source()),
    "from query": lambda lease: lease.copy_from_query(MUCH, output=endless_sink),
}


async def copy(
    lease: Lease, direction: str, fate: str, started: asyncio.Event, go_on: asyncio.Event
) -> object:
    """A COPY that is under way for as long as `go_on` is not set, and then has the fate."""

    async def wait() -> None:
        started.set()
        await go_on.wait()
        if fate == "fails":
            raise Broken

    async def give() -> AsyncIterator[bytes]:
        yield b"1\n"
        await wait()
        yield b"2\n"

    async def take(_: bytes) -> None:
        await wait()

    timeout = 0.1 if fate == "out of time" else None
    if direction == "in":
        return await lease.copy_to_table("things", source=give(), timeout=timeout)
    return await lease.copy_from_query(MUCH, output=take, timeout=timeout)


@contextlib.contextmanager
def nothing_said_to_the_loop() -> Iterator[None]:
    """Whatever is "never retrieved" is an error here."""
    loop = asyncio.get_running_loop()
    said: list[dict[str, Any]] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: said.append(context))
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert said == []


class TestCopy:
    @pytest.mark.parametrize("call", FAILING.values(), ids=FAILING)
    async def test_one_that_failed_here_is_cut_at_once(
        self, make_pool: MakePool, database_url: str, call: Call
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int); INSERT INTO things VALUES (0)")
        with nothing_said_to_the_loop():
            async with pool.acquire() as lease:
                with pytest.raises((Broken, asyncpg.PostgresError, TypeError)):
                    await call(lease)
            assert pool.stats().returning == 0
            assert await pool.fetchval("SELECT count(*) FROM things") == 1
            await asyncio.sleep(0)
        assert pool.stats().closed == {"copy_broken_off": 1}

    @pytest.mark.parametrize("call", ENDLESS.values(), ids=ENDLESS)
    @pytest.mark.parametrize("how", ["cancelled", "out of time"])
    async def test_so_is_one_that_was_given_up(
        self, make_pool: MakePool, database_url: str, call: Call, how: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int)")
        with nothing_said_to_the_loop():
            async with pool.acquire() as lease:
                copying: asyncio.Task[Any] = asyncio.create_task(call(lease))  # type: ignore[arg-type]  # a coroutine
                if how == "cancelled":
                    await asyncio.wait([copying], timeout=0.02)
                    copying.cancel()
                else:
                    copying = asyncio.create_task(asyncio.wait_for(copying, 0.02))
                with pytest.raises((asyncio.CancelledError, TimeoutError)):
                    await copying
            assert await pool.fetchval("SELECT count(*) FROM things") == 0
            await asyncio.sleep(0)
        assert pool.stats().closed == {"copy_broken_off": 1}

    @pytest.mark.parametrize("end", ["by the network", "by the borrower"])
    @pytest.mark.parametrize(
        ("fate", "expected"),
        [
            ("goes on", asyncpg.ConnectionDoesNotExistError),
            ("out of time", asyncpg.ConnectionDoesNotExistError),
            ("cancelled", asyncio.CancelledError),
            ("fails", Broken),
        ],
    )
    async def test_one_whose_session_ended_before_says_what_it_would_have_said(
        self, make_pool: MakePool, proxy: Proxy, end: str, fate: str, expected: type[BaseException]
    ) -> None:
        """Not that asyncpg could not clear up, which over uvloop is raised even instead of a cancel."""
        pool = await make_pool(proxy.dsn, max_size=1)
        for direction in ("in", "out"):
            async with pool.acquire() as lease:
                link = await link_of(lease, proxy)
                await lease.execute("CREATE TEMP TABLE things (a int)")
                started, go_on = asyncio.Event(), asyncio.Event()
                with nothing_said_to_the_loop():
                    copying = asyncio.create_task(copy(lease, direction, fate, started, go_on))
                    begun = asyncio.create_task(started.wait())
                    # On a busy machine its time may be out before it has begun.
                    await asyncio.wait([copying, begun], return_when=asyncio.FIRST_COMPLETED)
                    begun.cancel()
                    if end == "by the network":
                        link.reset()
                        if direction == "in":  # "out": it is not reading now
                            await eventually(lease.is_closed)
                    else:
                        lease.terminate()
                    if fate == "cancelled":
                        copying.cancel()
                    elif fate != "out of time":
                        go_on.set()
                    with pytest.raises((expected, TimeoutError) if fate == "out of time" else expected):
                        await copying
                    del copying
        assert await pool.fetchval("SELECT 1") == 1

    async def test_one_that_is_cancelled_in_the_instant_in_which_data_comes(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        """asyncpg forgets then to have the server end it, and fails on what else the server sends."""
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            connection: Any = lease._con
            link = await link_of(lease, proxy)
            with nothing_said_to_the_loop():
                asked = link.asked
                link.silence(questions=False)
                copying = asyncio.create_task(copy(lease, "out", "goes on", asyncio.Event(), asyncio.Event()))
                await eventually(lambda: link.asked > asked)
                connection._protocol.data_received(b"H\0\0\0\x09\0\0\1\0\0" + b"d\0\0\0\x06x\n")
                copying.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await copying
                link.resume()
                with pytest.raises(asyncpg.InterfaceError):
                    await lease.fetchval("SELECT 1")
                await eventually(lambda: pool.stats().closed == {"copy_broken_off": 1})
        assert await pool.fetchval("SELECT 1") == 1

    async def test_one_that_the_server_refused_says_why_though_its_source_ran_out_of_time(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            await lease.execute("CREATE TEMP TABLE things (a int)")

            async def wrong_source() -> AsyncIterator[bytes]:
                yield b"x\n" * 1000
                await asyncio.Event().wait()

            with nothing_said_to_the_loop(), pytest.raises(asyncpg.InvalidTextRepresentationError):
                await lease.copy_to_table("things", source=wrong_source(), timeout=0.5)
            assert await lease.fetchval("SELECT 1") == 1
        assert await pool.fetchval("SELECT 1") == 1

    async def test_one_that_the_server_refused_keeps_its_connection(
        self, make_pool: MakePool, database_url: str
    ) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int PRIMARY KEY)")
        async with pool.acquire() as lease:
            with pytest.raises(asyncpg.UniqueViolationError):
                await lease.copy_records_to_table("things", records=[(1,), (1,)])
            with pytest.raises(asyncpg.UndefinedTableError):
                await lease.copy_from_table("nothing", output=io.BytesIO())
        assert await pool.fetchval("SELECT count(*) FROM things") == 0
        assert pool.stats().closed == {}

    async def test_whenever_it_is_cancelled_the_next_borrower_is_served(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=2, max_size=2)

        async def slow_sink(_: bytes) -> None:
            await asyncio.sleep(0)

        async def copy(patience: float) -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await pool.copy_from_query(MUCH, output=slow_sink)

        with nothing_said_to_the_loop():
            for attempt in range(40):
                await asyncio.gather(copy(attempt / 2000), copy(attempt / 3000))
                assert await asyncio.gather(*(pool.fetchval("SELECT 1") for _ in range(3))) == [1, 1, 1]


class TestTried:
    async def test_a_session_is_tried_before_it_is_lent_again(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            link = await link_of(lease, proxy)
            with pytest.raises(TimeoutError):
                await lease.execute("SELECT pg_sleep(60)", timeout=0.01)
            asked = link.asked
        await eventually(lambda: pool.stats().idle == 1)
        assert link.asked == asked + 1
        assert await pool.fetchval("SELECT 1") == 1
        assert pool.stats().closed == {}


class TestLostCancel:
    """New connections vanish, and with them the requests to cancel a statement; the old ones work."""

    @pytest.mark.parametrize("again", [False, True], ids=["returned", "used again"])
    async def test_a_session_whose_statement_ended_by_itself_is_kept(
        self, make_pool: MakePool, database_url: str, again: bool
    ) -> None:
        async with Proxy(database_url).serve() as proxy:
            pool = await make_pool(proxy.dsn, min_size=3, max_size=3, server_settings={"lock_timeout": "300"})
            await pool.execute("CREATE TABLE things (a int)")
            holder = await asyncpg.connect(database_url)
            await holder.execute("BEGIN; LOCK TABLE things IN ACCESS EXCLUSIVE MODE")

            async def work() -> None:
                async with pool.acquire() as lease:
                    with pytest.raises(TimeoutError):
                        await lease.fetch("SELECT * FROM things", timeout=0.05)
                    if again:
                        assert await lease.fetchval("SELECT 1", timeout=5) == 1

            with proxy.swallow_new():
                await asyncio.gather(*(work() for _ in range(6)))
                await eventually(lambda: pool.get_idle_size() == 3)
                assert pool.stats().opened == 3
                assert pool.stats().closed == {}
            await holder.close()
