"""Borrowers that hold too long, forget to return, or ask for a second helping."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from lifeguard.pool import Lease, Pool, PoolEvent
from lifeguard.pool.callsite import borrows_for_the_endpoint, look_through
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.conftest import Events, MakePool

THIS_FILE = str(Path(__file__))


def line_of(marker: str) -> str:
    """`file:line` of the one line of this file that ends with this comment."""
    lines = Path(__file__).read_text().splitlines()
    [number] = [n for n, line in enumerate(lines, start=1) if line.endswith(f"# {marker}")]
    return f"{THIS_FILE}:{number}"


async def report_of(events: Events, name: str) -> PoolEvent:
    """The one event of this name."""
    await eventually(lambda: events.named(name))
    [event] = events.named(name)
    return event


class Holder:
    """A task that holds a lease until it is told to return it."""

    def __init__(self, pool: Pool) -> None:
        self.enough = asyncio.Event()
        self.task = asyncio.create_task(self._hold(pool), name="holder")

    async def _hold(self, pool: Pool) -> None:
        async with pool.acquire() as lease:  # borrowed here
            await lease.execute("SELECT 1")
            await self._wait()

    async def _wait(self) -> None:
        await self.enough.wait()  # waits here


@dataclass(frozen=True)
class Call:
    """On whose behalf a test borrows."""

    route: str
    endpoint: CodeType = line_of.__code__


def library(folder: Path) -> Callable[..., Coroutine[Any, Any, Lease]]:
    """Code that lives in this folder and borrows."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "library.py"
    source.write_text("async def borrow(pool, **options):\n    return await pool.acquire(**options)\n")
    names: dict[str, Any] = {}
    exec(compile(source.read_text(), source, "exec"), names)  # noqa: S102 - code that lives elsewhere
    borrow: Callable[..., Coroutine[Any, Any, Lease]] = names["borrow"]
    return borrow


class TestOverdue:
    """A lease held longer than the threshold is reported once, and once more when it comes back."""

    async def test_the_report_names_both_call_sites(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(leak_threshold=0.05)
        holder = Holder(pool)
        report = await report_of(events, "lease_overdue")
        assert report.level == "warning"
        assert report.details["task"] == "holder"
        assert str(report.details["borrowed_at"]) == f"{line_of('borrowed here')} in Holder._hold"
        stack = report.details["stack"]
        assert isinstance(stack, tuple)
        assert f"{line_of('waits here')} in Holder._wait" in stack
        held_for = report.details["held_for"]
        assert isinstance(held_for, float)
        assert held_for > 0.05
        assert report.stats.used == 1
        holder.enough.set()
        await holder.task

    async def test_its_return_is_a_second_line(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(leak_threshold=0.05)
        holder = Holder(pool)
        await report_of(events, "lease_overdue")
        assert not events.named("overdue_lease_returned")
        holder.enough.set()
        await holder.task
        report = await report_of(events, "overdue_lease_returned")
        assert str(report.details["borrowed_at"]).startswith(line_of("borrowed here"))
        assert len(events.named("lease_overdue")) == 1
        assert pool.stats().leaks == {"overdue": 1}

    async def test_the_next_lease_of_the_connection_is_reported_on_its_own(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(leak_threshold=0.05, max_size=1)
        for _ in range(2):
            holder = Holder(pool)
            await eventually(lambda: any(lease.overdue for lease in pool.leases()))
            holder.enough.set()
            await holder.task
        assert len(events.named("lease_overdue")) == 2
        assert len(events.named("overdue_lease_returned")) == 2

    async def test_a_threshold_of_nothing_turns_the_report_off(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(leak_threshold=0, max_lifetime=0.2)  # looked at as often as the other
        other = await make_pool(leak_threshold=0.1)
        holder, reported = Holder(pool), Holder(other)
        await eventually(lambda: events.named("lease_overdue"))
        assert [event.stats.name for event in events.named("lease_overdue")] == [other.name]
        for each in (holder, reported):
            each.enough.set()
            await each.task

    async def test_a_lease_whose_connection_is_cut_does_not_break_the_report(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(min_size=2, leak_threshold=0.05)
        async with pool.acquire() as lease:
            lease.terminate()
            assert len(pool.leases()) <= 1
            holder = Holder(pool)
            await eventually(lambda: len(events.named("lease_overdue")) == 1)
        holder.enough.set()
        await holder.task


class TestAbandoned:
    """A lease that was dropped without being returned is reclaimed, so the pool heals."""

    async def test_it_is_reclaimed_and_reported(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=1)

        async def forgetful() -> None:
            await pool.acquire()  # forgotten here

        await forgetful()
        gc.collect()
        report = await report_of(events, "lease_abandoned")
        assert str(report.details["borrowed_at"]).startswith(line_of("forgotten here"))
        assert await pool.fetchval("SELECT 1") == 1
        assert pool.stats().leaks == {"abandoned": 1}

    async def test_its_transaction_is_rolled_back(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)

        async def forgetful() -> int:
            lease = await pool.acquire()
            await lease.execute("BEGIN; CREATE TABLE things (); SET LOCAL search_path = pg_catalog")
            return lease.get_server_pid()

        pid = await forgetful()
        gc.collect()
        assert await pool.fetchval("SELECT to_regclass('things')") is None
        assert await pool.fetchval("SELECT pg_backend_pid()") == pid

    async def test_a_waiter_gets_it(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        leases = [await pool.acquire()]
        waiter = asyncio.create_task(pool.fetchval("SELECT 1"))
        await eventually(lambda: pool.stats().waiting == 1)
        leases.clear()
        gc.collect()
        assert await waiter == 1

    async def test_so_is_one_whose_task_was_dropped_with_it(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)

        async def numbers() -> AsyncIterator[int]:
            async with pool.acquire() as lease:
                yield await lease.fetchval("SELECT 1")
                yield 2

        async for number in numbers():  # never finished, closed by the garbage collector
            assert number == 1
            break
        gc.collect()
        assert await pool.fetchval("SELECT 1") == 1

    async def test_by_another_thread_as_well(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        leases = [await pool.acquire()]
        await asyncio.to_thread(leases.clear)
        await eventually(lambda: pool.stats().leaks == {"abandoned": 1} and pool.get_idle_size() == 1)

    async def test_one_whose_connection_was_lost_is_no_leak(
        self, make_pool: MakePool, postgres: PostgresServer, events: Events
    ) -> None:
        pool = await make_pool(max_size=1)
        leases = [await pool.acquire()]
        await postgres.kill(leases[0].get_server_pid())
        await eventually(lambda: pool.stats().closed == {"lost": 1})
        leases.clear()
        gc.collect()
        assert await pool.fetchval("SELECT 1") == 1
        assert not events.named("lease_abandoned")

    async def test_one_that_outlives_its_pool_is_none_either(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        leases = [await pool.acquire()]
        pool.terminate()
        leases.clear()
        gc.collect()
        await eventually(lambda: not pool.stats().closing)
        assert pool.stats().closed == {"cut_off": 1}


def test_one_that_outlives_its_event_loop_is_left_alone(
    postgres: PostgresServer, recwarn: pytest.WarningsRecorder
) -> None:
    async def borrow() -> Lease:
        pool = Pool(postgres.dsn(), min_size=1)
        await pool.open()
        lease = await pool.acquire()
        pool.terminate()
        return lease

    with asyncio.Runner() as runner:
        leases = [runner.run(borrow())]
    leases.clear()
    gc.collect()
    assert not list(recwarn)


class TestNested:
    """A task that holds one connection and asks for another is reported once for each call site."""

    async def test_it_is_reported_with_both_call_sites(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=2)
        async with pool.acquire():  # the first
            await pool.release(await pool.acquire())  # the second
        report = await report_of(events, "nested_borrow")
        assert str(report.details["borrowed_at"]).startswith(line_of("the second"))
        assert str(report.details["already_holding_from"]).startswith(line_of("the first"))
        assert pool.stats().leaks == {"nested": 1}

    async def test_once_for_each_call_site(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=2)
        for _ in range(3):
            async with pool.acquire():
                await pool.fetchval("SELECT 1")
        async with pool.acquire():
            await pool.fetchval("SELECT 1")
        assert len(events.named("nested_borrow")) == 2

    async def test_a_pool_s_own_query_names_its_caller(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=2)
        async with pool.acquire():
            await pool.fetchval("SELECT 1")  # by the pool
        report = await report_of(events, "nested_borrow")
        assert str(report.details["borrowed_at"]).startswith(line_of("by the pool"))

    async def test_once_for_each_route_that_borrows_there(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=2)
        for route in ("GET /a", "GET /b", "GET /a"):
            async with pool.acquire(), pool.acquire(caller=Call(route)):
                pass
        assert [event.details["route"] for event in events.named("nested_borrow")] == ["GET /a", "GET /b"]

    async def test_one_after_the_other_is_not_nested(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=2)
        async with pool.acquire():
            pass
        async with pool.acquire():
            pass
        assert not events.named("nested_borrow")

    async def test_another_task_is_not_nested(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=2)
        async with pool.acquire():
            await asyncio.create_task(pool.fetchval("SELECT 1"))
        assert not events.named("nested_borrow")

    async def test_another_pool_is_not_nested(self, make_pool: MakePool, events: Events) -> None:
        pool, other = await make_pool(), await make_pool()
        async with pool.acquire():
            await other.fetchval("SELECT 1")
        assert not events.named("nested_borrow")


class TestLeases:
    """`leases()` says who holds what."""

    async def test_it_names_holder_place_and_time(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        holder = Holder(pool)
        await eventually(lambda: pool.leases() and pool.leases()[0].stack)
        await eventually(lambda: any("_wait" in frame for frame in pool.leases()[0].stack))
        [lease] = pool.leases()
        assert lease.task == "holder"
        assert lease.borrowed_at == f"{line_of('borrowed here')} in Holder._hold"
        assert 0 < lease.held_for < 5
        assert not lease.overdue
        assert lease.backend_pid
        holder.enough.set()
        await holder.task
        assert pool.leases() == ()

    async def test_the_longest_held_comes_first(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=2)
        async with pool.acquire() as first, pool.acquire() as second:
            pids = [lease.backend_pid for lease in pool.leases()]
            assert pids == [first.get_server_pid(), second.get_server_pid()]

    async def test_a_lease_given_to_a_task_that_has_ended_stands_nowhere(self, make_pool: MakePool) -> None:
        pool = await make_pool()

        async def borrow() -> Lease:
            return await pool.acquire()

        lease = await asyncio.create_task(borrow())
        gc.collect()
        [info] = pool.leases()
        assert info.task is None
        assert info.stack == ()
        await pool.release(lease)

    async def test_a_task_that_is_nothing_but_a_query_was_called_by_nobody(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        task = asyncio.create_task(pool.fetchval("SELECT pg_sleep(60)"), name="query")
        await eventually(pool.leases)
        [lease] = pool.leases()
        assert lease.borrowed_at is None
        assert lease.task == "query"
        task.cancel()
        await asyncio.wait([task])

    async def test_code_that_borrows_for_others_can_step_back(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        pool = await make_pool()
        borrow = library(tmp_path)
        lease = await borrow(pool)
        assert str(pool.leases()[0].borrowed_at).startswith(str(tmp_path))
        await pool.release(lease)

        look_through(str(tmp_path))
        lease = await borrow(pool)  # for others
        assert str(pool.leases()[0].borrowed_at).startswith(line_of("for others"))
        await pool.release(lease)

    async def test_a_library_is_named_only_when_nobody_else_is_there(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        pool = await make_pool()
        borrow = library(tmp_path / "site-packages")

        lease = await borrow(pool)  # through a library
        assert str(pool.leases()[0].borrowed_at).startswith(line_of("through a library"))
        await pool.release(lease)

        lease = await asyncio.create_task(borrow(pool))
        assert str(pool.leases()[0].borrowed_at).startswith(str(tmp_path))
        await pool.release(lease)

    async def test_the_endpoint_is_named_rather_than_a_library(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        pool = await make_pool()
        borrow = partial(library(tmp_path / "site-packages"), caller=Call("GET /things"))
        lease = await asyncio.create_task(borrow(pool))
        [info] = pool.leases()
        assert str(info.borrowed_at).endswith("in line_of")
        assert info.route == "GET /things"
        await pool.release(lease)

    async def test_code_that_borrows_for_the_endpoint_is_not_named(self, make_pool: MakePool) -> None:
        pool = await make_pool()

        @borrows_for_the_endpoint
        async def dependency() -> Lease:
            return await pool.acquire(caller=Call("GET /things"))

        lease = await dependency()
        assert str(pool.leases()[0].borrowed_at).endswith("in line_of")
        await pool.release(lease)
        await pool.release(await pool.acquire())
        async with pool.acquire():
            assert pool.leases()[0].route is None

    async def test_a_context_manager_of_the_standard_library_is_seen_through(
        self, make_pool: MakePool
    ) -> None:
        pool = await make_pool()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(pool.acquire())  # through the stack
            assert str(pool.leases()[0].borrowed_at).startswith(line_of("through the stack"))


class Clueless:
    """A caller that fails to say who it is."""

    @property
    def route(self) -> str:
        raise RuntimeError("no route")

    @property
    def endpoint(self) -> CodeType:
        raise RuntimeError("no endpoint")


async def test_a_caller_that_cannot_be_asked_costs_no_connection(make_pool: MakePool, events: Events) -> None:
    pool = await make_pool(max_size=2, min_size=2, leak_threshold=0.01, health_check_interval=0.02)
    async with pool.acquire(caller=Clueless()) as one, pool.acquire(caller=Clueless()) as other:
        await one.execute("BEGIN")
        await other.execute("BEGIN")
        await eventually(lambda: len(events.named("lease_overdue")) == 2)
        assert [lease.route for lease in pool.leases()] == [None, None]
    reported = {"nested_borrow", "left_behind", "overdue_lease_returned"}
    assert reported <= {event.name for event in events}
    await eventually(lambda: pool.get_idle_size() == 2)
