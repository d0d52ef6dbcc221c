"""A pool that is used wrongly says what is wrong and what to do instead."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from types import CodeType

import asyncpg
import httpx
import pytest
from lifeguard.pool import Lease, Pool
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.conftest import Events, MakePool


class Route:
    """A caller that knows what to do instead."""

    route = "GET /"
    endpoint: CodeType | None = None
    remedy = "take DatabaseDep"


class TestLeaseThatHasEnded:
    @pytest.mark.parametrize(
        ("caller", "remedy"),
        [(None, "borrow one where it is used: .*`async with`"), (Route(), "DatabaseDep")],
    )
    @pytest.mark.parametrize("method", ["fetch", "fetchrow", "fetchval", "execute", "cursor", "executemany"])
    async def test_names_the_remedy(
        self, make_pool: MakePool, caller: Route | None, remedy: str, method: str
    ) -> None:
        pool = await make_pool()
        async with pool.acquire(caller=caller) as connection:
            await connection.fetchval("SELECT 1")
        arguments = ["SELECT $1::int", [(1,)]] if method == "executemany" else ["SELECT 1"]
        with pytest.raises(
            asyncpg.InterfaceError, match=rf"{method}\(\): .*released back to the pool; .*{remedy}"
        ):
            await getattr(connection, method)(*arguments)


class TestOtherLoop:
    async def test_is_refused_before_anything_is_lent(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=1)
        await eventually(lambda: pool.get_idle_size() == 1)
        with pytest.raises(asyncpg.InterfaceError, match=r"another event loop: .*run_coroutine_threadsafe"):
            await asyncio.to_thread(asyncio.run, pool.fetchval("SELECT 1"))
        assert pool.stats().used == 0
        assert await pool.fetchval("SELECT 1") == 1

    async def test_that_has_ended_is_named(self, database_url: str) -> None:
        pool = Pool(database_url, min_size=0)
        await asyncio.to_thread(asyncio.run, pool.open())
        with pytest.raises(asyncpg.InterfaceError, match=r"has ended: .*one asyncio\.run\(\)"):
            await pool.fetchval("SELECT 1")
        pool.terminate()


FORK = """
import asyncio, gc, os, sys
from lifeguard import Pool

loop = asyncio.new_event_loop()
pool = Pool(sys.argv[1], min_size=2, max_size=2)

async def hold():
    await pool.open()
    lease = await pool.acquire()
    await lease.execute("SET work_mem = '1MB'")  # to be reset when it comes back
    return lease

lease = loop.run_until_complete(hold())
if os.fork() == 0:
    del lease
    gc.collect()
    try:
        asyncio.run(pool.fetchval("SELECT 1"))
    except Exception as error:
        print(error, flush=True)
    pool.terminate()
    del pool
    gc.collect()
    os._exit(0)
os.wait()
print(loop.run_until_complete(lease.fetchval("SELECT 42")), flush=True)
loop.run_until_complete(pool.release(lease))
loop.run_until_complete(pool.close())
loop.close()
"""


def test_a_forked_process_is_told_to_open_its_own_pool_and_leaves_the_sessions_alone(
    database_url: str,
) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, database_url], capture_output=True, text=True, check=False
    )
    told, _, answer = ended.stdout.strip().partition("\n")
    assert "opened before this process was forked" in told
    assert "open a pool in each process, after the fork" in told
    assert (answer, ended.stderr) == ("42", "")


class TestHeldOverSomethingElse:
    """What an overdue lease's task waits for, if that is not the database."""

    async def waiting_for(
        self, pool: Pool, events: Events, work: Callable[[Lease], Awaitable[object]]
    ) -> tuple[object, object]:
        """What the report of a lease says that is held over `work`, and its remedy."""

        async def hold() -> None:
            async with pool.acquire() as connection:
                await work(connection)

        task = asyncio.create_task(hold())
        [overdue] = await eventually(lambda: events.named("lease_overdue"))
        task.cancel()
        await asyncio.wait([task])
        return overdue.details["waiting_for"], overdue.details.get("remedy")

    async def test_is_an_address_and_the_library_that_was_called(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(leak_threshold=0.05)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # which lets clients in and says nothing
            port = silent.getsockname()[1]
            async with httpx.AsyncClient() as client:
                call = client.get(f"http://127.0.0.1:{port}/", timeout=30)
                waits, remedy = await self.waiting_for(pool, events, lambda _: call)
        assert waits == f"127.0.0.1:{port} (httpx)"
        assert "return the connection before" in str(remedy)

    async def test_is_a_function_where_there_is_no_address(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(leak_threshold=0.05)
        waits, _ = await self.waiting_for(pool, events, lambda _: asyncio.sleep(30))
        assert waits == "asyncio.tasks.sleep"

    async def test_is_nothing_for_who_waits_for_the_database(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(leak_threshold=0.05)
        waits = await self.waiting_for(pool, events, lambda c: c.execute("SELECT pg_sleep(30)"))
        assert waits == (None, None)
