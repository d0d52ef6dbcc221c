"""Whatever ends a task of the pool, another connection can be opened."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Pool, PoolError, PoolEvent, PoolUnavailable
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import pid_of_next
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.pool.test_ending import tasks_of
from packages.lifeguard.tests.stopwatch import Stopwatch

Hook = Callable[..., Awaitable[Any]]


def cancelled_once() -> Hook:
    """Awaits a task that somebody else has cancelled, the first time."""
    times = 0

    async def hook(*_: object) -> None:
        nonlocal times
        times += 1
        if times == 1:
            raise asyncio.CancelledError

    return hook


def password_cancelled_once(pool_password: str) -> Hook:
    once = cancelled_once()

    async def password() -> str:
        await once()
        return pool_password

    return password


class TestACancellationFromInside:
    async def test_of_init_is_a_failed_attempt(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=1, init=cancelled_once())
        assert await pid_of_next(pool)
        assert pool.stats().open_failures == 1
        assert [event.details["error"] for event in events.named("open_failed")]

    async def test_of_the_password_is_told_to_those_who_wait(self, make_pool: MakePool) -> None:
        async def password() -> str:
            raise asyncio.CancelledError

        pool = await make_pool(min_size=0, max_size=1, password=password, ready=False)
        with pytest.raises(PoolUnavailable, match="no connection can be opened") as caught:
            await pool.acquire()
        assert "cancelled from within" in str(caught.value.__cause__)

    async def test_of_a_reset_hook_costs_the_connection(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=1, reset=cancelled_once())
        first = await pid_of_next(pool)
        assert await pid_of_next(pool) != first
        assert pool.stats().closed == {"broken_off": 1}
        async with Stopwatch() as watch:
            assert (await pool.drain(4)).cut_off == ()
        assert watch.seconds < 1


async def resetting(make_pool: MakePool, proxy: Proxy) -> Pool:
    proceed = asyncio.Event()

    async def hang_once(_: object) -> None:
        if not proceed.is_set():
            proceed.set()
            await asyncio.Event().wait()

    pool = await make_pool(proxy.dsn, max_size=1, reset=hang_once)
    await pid_of_next(pool)
    await proceed.wait()
    return pool


async def checking(make_pool: MakePool, proxy: Proxy) -> Pool:
    pool = await make_pool(proxy.dsn, max_size=1, health_check_interval=0.02)
    proxy.silence()
    await eventually(lambda: pool.stats().validating == 1)
    return pool


async def closing(make_pool: MakePool, proxy: Proxy) -> Pool:
    pool = await make_pool(proxy.dsn, max_size=1)
    proxy.silence()
    await pool.expire_connections()
    assert pool.stats().closing == 1
    return pool


async def opening(make_pool: MakePool, proxy: Proxy) -> Pool:
    proxy.hold_new = True
    pool = await make_pool(proxy.dsn, max_size=1, ready=False)
    await eventually(lambda: proxy.links)
    return pool


@pytest.mark.parametrize("task", [resetting, checking, closing, opening])
async def test_a_cancel_of_all_tasks_leaves_every_place_free(
    task: Callable[[MakePool, Proxy], Coroutine[Any, Any, Pool]], make_pool: MakePool, proxy: Proxy
) -> None:
    pool = await task(make_pool, proxy)
    cancelled = [each for each in asyncio.all_tasks() if each.get_name().startswith(f"pool {pool.name}:")]
    assert cancelled
    for each in cancelled:
        each.cancel()
    await asyncio.wait(cancelled)
    proxy.resume()
    stats = pool.stats()
    assert stats.returning == stats.validating == 0
    async with Stopwatch() as watch:
        async with asyncio.timeout(5):
            await pool.wait_ready(4)
            lease = await pool.acquire()
            assert await lease.fetchval("SELECT 1") == 1
            lease.terminate()
            await pool.release(lease)
        await pool.drain(4)
    assert watch.seconds < 3
    assert tasks_of(pool) == []


async def test_a_cancel_before_the_first_step_counts_as_well(make_pool: MakePool) -> None:
    pool = await make_pool(max_size=1, reset="always")
    lease = await pool.acquire()
    await pool.release(lease)
    for task in asyncio.all_tasks():
        if task.get_name().startswith(f"pool {pool.name}:"):
            task.cancel()
    assert await pid_of_next(pool)
    assert pool.stats().closed == {"broken_off": 1}
    with pytest.raises(asyncpg.InterfaceError):
        await lease.fetchval("SELECT 1")


async def test_all_who_ask_aside_at_once_share_one_session(
    make_pool: MakePool, postgres: PostgresServer
) -> None:
    asked, go_on = 0, asyncio.Event()
    go_on.set()

    async def password() -> str:  # of each session that is opened
        nonlocal asked
        asked += 1
        await go_on.wait()
        return postgres.password

    pool = await make_pool(max_size=1, password=password)
    go_on.clear()
    first, *others = [asyncio.create_task(pool.ask_aside()) for _ in range(5)]
    await eventually(lambda: asked == 2)
    first.cancel()  # which is not the others' business
    await asyncio.wait({first})
    assert first.cancelled()
    go_on.set()
    await asyncio.gather(*others)
    assert asked == 2
    await pool.ask_aside()  # the next question is asked anew
    assert asked == 3


async def test_a_question_aside_ends_with_the_last_who_waits_for_it(
    make_pool: MakePool, postgres: PostgresServer
) -> None:
    asked, ended, hanging = 0, asyncio.Event(), asyncio.Event()

    async def password() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
        return postgres.password

    pool = await make_pool(max_size=1, password=password)
    asking = asyncio.create_task(pool.ask_aside())
    await hanging.wait()
    asking.cancel()
    await asyncio.wait({asking})
    await pool.ask_aside()  # asked anew
    await ended.wait()
    assert asked == 3


_request: ContextVar[str | None] = ContextVar("request", default=None)


async def test_what_goes_on_in_the_background_is_not_told_in_the_name_of_a_borrower(
    make_pool: MakePool, proxy: Proxy
) -> None:
    """An opening, its retries, a failed return and a closing, all set off by calls of a borrower."""
    told: list[tuple[str, str | None]] = []

    def note(event: PoolEvent) -> None:
        told.append((event.name, _request.get()))

    async def fail(_: object) -> None:
        raise ZeroDivisionError

    def seen(name: str, times: int = 1) -> bool:
        return [event for event, _ in told].count(name) >= times

    pool = await make_pool(proxy.dsn, min_size=0, max_size=1, reset=fail, on_event=note, ready=False)
    _request.set("r1")
    lease = await pool.acquire()
    proxy.lead_to("postgresql://127.0.0.1:1/nowhere")
    await pool.release(lease)

    async def failed_twice() -> bool:
        with suppress(PoolError):
            await pool.acquire(timeout=0.5)
        return seen("open_failed", 2)

    await eventually(failed_twice)
    await eventually(lambda: seen("connection_closed"))
    assert {"connection_opened", "return_failed"} <= {name for name, _ in told}
    assert {request for _, request in told} == {None}


async def test_what_the_collector_finds_is_not_told_in_the_name_of_whom_it_interrupts(
    make_pool: MakePool,
) -> None:
    told: list[tuple[str, str | None]] = []
    pool = await make_pool(max_size=1, on_event=lambda event: told.append((event.name, _request.get())))
    lease = await pool.acquire()
    _request.set("r1")
    del lease
    await eventually(lambda: [request for name, request in told if name == "lease_abandoned"])
    assert ("lease_abandoned", None) in told
