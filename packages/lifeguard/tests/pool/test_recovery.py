"""What was never sent is sent on another connection, once, and its borrower does not learn of it."""

import asyncio
import io
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool, StatementNotSent
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer, is_running
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import borrow_all, link_of, waiting
from packages.lifeguard.tests.pool.conftest import Events, MakePool

LAST_WORDS = b"E\x00\x00\x00\x1cSFATAL\x00C57P01\x00Mthe end\x00\x00"
Call = Callable[[Lease], Awaitable[Any]]


async def in_transaction(lease: Lease) -> Any:
    async with lease.transaction(isolation="serializable"):
        return await lease.fetchval("SHOW transaction_isolation")


CALLS: dict[str, Call] = {
    "fetch": lambda lease: lease.fetch("SELECT 1"),
    "fetchrow": lambda lease: lease.fetchrow("SELECT 1"),
    "fetchval": lambda lease: lease.fetchval("SELECT $1::int", 1),
    "execute": lambda lease: lease.execute("SELECT 1"),
    "execute with arguments": lambda lease: lease.execute("SELECT $1::int", 1),
    "executemany": lambda lease: lease.executemany("SELECT $1::int", [(1,), (2,)]),
    "set_config": lambda lease: lease.fetchval("SELECT set_config('a.b', 'c', false)"),
    "prepare": lambda lease: lease.prepare("SELECT 1"),
    "copy": lambda lease: lease.copy_from_query("SELECT 1", output=io.BytesIO()),
    "transaction": in_transaction,
}


def end_backend(pid: int) -> None:
    """End a session without giving the event loop a turn, so that it has not read of it."""
    os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < give_up
        time.sleep(0.001)


async def two_in_a_transaction(pool: Pool, first: Call) -> None:
    """Between the two statements the session ends."""
    async with pool.acquire() as lease, lease.transaction():
        await first(lease)
        end_backend(lease.get_server_pid())
        await eventually(lambda: pool.stats().closed == {"lost": 1})
        await lease.execute("INSERT INTO things VALUES (2)")


class TestNeverSent:
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    @pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
    async def test_it_is_sent_on_another_connection(
        self, make_pool: MakePool, postgres: PostgresServer, events: Events, call: Call, used: bool
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            if used and call is not CALLS["set_config"]:
                await lease.fetchval("SELECT $1::int", 1)
                await lease.fetch("SELECT 1")
            await postgres.kill(lease.get_server_pid())
            await eventually(lambda: pool.stats().closed == {"lost": 1})
            await call(lease)
            assert [held.backend_pid for held in pool.leases()] == [lease.get_server_pid()]
        assert events.named("lease_abandoned") == events.named("nested_borrow") == []

    async def test_also_when_the_loop_has_not_read_of_the_end(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=5, max_size=5)
        leases = await borrow_all(pool, 5)
        pids = [lease.get_server_pid() for lease in leases]
        await asyncio.gather(*(lease.fetchval("SELECT $1::int", 0) for lease in leases))
        for lease in leases:
            await pool.release(lease)
        await asyncio.sleep(0.002)  # in which nothing is lent
        for pid in pids:
            end_backend(pid)
        assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(20))) == [*range(20)]

    async def test_also_when_the_loop_has_read_last_words_but_not_the_end(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2)
        for query in ("SELECT 1", "SELECT 2"):  # prepared before, and not
            doomed, other = await borrow_all(pool, 2)
            await doomed.fetchval("SELECT 1")
            await (await link_of(doomed, proxy)).say(LAST_WORDS)
            await other.fetchval("SELECT 1")  # so long the loop has time to read them
            assert await doomed.fetchval(query) == int(query[-1])
            await pool.release(doomed)
            await pool.release(other)

    async def test_its_borrower_does_not_queue_again(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=1)
        order: list[str] = []

        async def note(name: str, query: Awaitable[object]) -> None:
            await query
            order.append(name)

        lease = await pool.acquire()
        others = [asyncio.create_task(note("other", pool.fetchval("SELECT 1"))) for _ in range(3)]
        await waiting(pool, 3)
        end_backend(lease.get_server_pid())
        await note("first", lease.fetchval("SELECT 1"))
        await pool.release(lease)
        await asyncio.gather(*others)
        assert order[0] == "first"

    @pytest.mark.parametrize(
        "leave_a_trace",
        [
            lambda lease: lease.execute("SET a.b = 'c'"),
            lambda lease: lease.prepare("SELECT 1"),
            lambda lease: lease.add_listener("events", print),
            lambda lease: lease.execute("BEGIN"),
        ],
        ids=["SET", "prepare", "LISTEN", "BEGIN"],
    )
    async def test_a_session_that_bears_traces_is_not_exchanged(
        self, make_pool: MakePool, postgres: PostgresServer, leave_a_trace: Call
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            await leave_a_trace(lease)
            await postgres.kill(lease.get_server_pid())
            with pytest.raises(StatementNotSent):
                await lease.fetchval("SELECT 1")
        assert await pool.fetchval("SELECT 1") == 1

    async def test_nor_one_that_the_borrower_has_closed(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        for how in ("close", "terminate"):
            async with pool.acquire() as lease:
                closing = getattr(lease, how)()
                if closing is not None:
                    await closing
                with pytest.raises(asyncpg.InterfaceError, match="closed"):
                    await lease.fetchval("SELECT 1")

    async def test_what_was_sent_is_not_sent_again(
        self, make_pool: MakePool, database_url: str, postgres: PostgresServer
    ) -> None:
        async with Proxy(database_url).serve() as proxy:
            pool = await make_pool(proxy.dsn, max_size=1)
            await pool.execute("CREATE TABLE things (a int)")
            async with pool.acquire() as lease:
                await lease.execute("INSERT INTO things VALUES ($1)", 0)
                link = await link_of(lease, proxy)
                link.silence(questions=False)
                asked = link.asked
                insert = asyncio.create_task(lease.execute("INSERT INTO things VALUES ($1)", 1))
                await eventually(lambda: link.asked > asked)
                link.reset()
                with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                    await insert
            await eventually(lambda: pool.stats().idle == 1)
            assert await pool.fetchval("SELECT count(*) FROM things WHERE a = 1") <= 1

    async def test_without_another_connection_its_borrower_learns_what_happened(
        self, make_pool: MakePool, server_factory: ServerFactory
    ) -> None:
        server = await server_factory()
        pool = await make_pool(server.dsn(), max_size=1)
        async with pool.acquire() as lease:
            await server.stop("fast")
            with pytest.raises(StatementNotSent, match="before the statement was sent"):
                await lease.fetchval("SELECT 1")
        await server.start()
        await eventually(lambda: pool.get_idle_size() == 1)

    async def test_setup_runs_on_the_other_connection(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        async def setup(lease: Lease) -> None:
            await lease.execute("SET a.b = 'set up'")

        pool = await make_pool(max_size=1, setup=setup)
        async with pool.acquire() as lease:
            await postgres.kill(lease.get_server_pid())
            assert await lease.fetchval("SELECT current_setting('a.b')") == "set up"


class TestTransactions:
    """The first statement after BEGIN can be sent again, with BEGIN before it; what follows cannot."""

    async def test_the_first_statement(self, make_pool: MakePool, postgres: PostgresServer) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            begun = await lease.begin(isolation="repeatable_read", prelude="SET LOCAL lock_timeout = '7s'")
            await postgres.kill(lease.get_server_pid())
            assert await lease.fetchval("SHOW lock_timeout") == "7s"
            assert await lease.fetchval("SHOW transaction_isolation") == "repeatable read"
            assert await lease.commit(begun, timeout=5) == "COMMIT"
            assert not lease.is_in_transaction()

    async def test_a_later_one_is_not_sent(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int)")
        with pytest.raises(StatementNotSent):
            await two_in_a_transaction(pool, lambda lease: lease.execute("INSERT INTO things VALUES (1)"))
        assert await pool.fetch("SELECT * FROM things") == []

    async def test_a_copy_counts_as_a_statement(self, make_pool: MakePool, database_url: str) -> None:
        pool = await make_pool(database_url, max_size=1)
        await pool.execute("CREATE TABLE things (a int)")
        with pytest.raises(StatementNotSent):
            await two_in_a_transaction(
                pool, lambda lease: lease.copy_records_to_table("things", records=[(1,)])
            )
        assert await pool.fetch("SELECT * FROM things") == []

    async def test_a_commit_that_was_never_sent_says_so(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as lease:
            begun = await lease.begin()
            await postgres.kill(lease.get_server_pid())
            with pytest.raises(StatementNotSent):
                await lease.commit(begun, timeout=5)

    async def test_begin_may_be_sent_twice(self, make_pool: MakePool, proxy: Proxy) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        async with pool.acquire() as lease:
            link = await link_of(lease, proxy)
            link.silence(questions=False)
            asked = link.asked
            beginning = asyncio.create_task(lease.begin())
            await eventually(lambda: link.asked > asked)
            link.reset()
            begun = await beginning
            assert await lease.commit(begun, timeout=5) == "COMMIT"

    async def test_a_lease_dropped_in_one_is_still_found(self, make_pool: MakePool, events: Events) -> None:
        pool = await make_pool(max_size=1)
        await (await pool.acquire()).begin()
        assert await pool.fetchval("SELECT 1") == 1
        assert len(events.named("lease_abandoned")) == 1


class TestLastWords:
    """The loop has read the server's last words, and not yet its end: asyncpg's state is another one then."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda lease: lease.copy_records_to_table("things", records=[(1,)]),
            lambda lease: lease.copy_from_query("SELECT 1", output=io.BytesIO()),
            lambda lease: lease.execute("INSERT INTO things VALUES (2)"),
            lambda lease: lease.fetch("SELECT NULL::things"),  # asks for the type first
            lambda lease: lease.transaction().start(),
        ],
        ids=["copy to", "copy from", "execute", "introspection", "savepoint"],
    )
    async def test_are_a_lost_connection_in_a_transaction(
        self, make_pool: MakePool, database_url: str, call: Call
    ) -> None:
        async with Proxy(database_url).serve() as proxy:
            pool = await make_pool(proxy.dsn, min_size=2)
            await pool.execute("CREATE TABLE things (a int)")
            doomed, other = await borrow_all(pool, 2)
            begun = doomed.transaction()
            await begun.start()
            await doomed.execute("INSERT INTO things VALUES (1)")
            await (await link_of(doomed, proxy)).say(LAST_WORDS)
            await other.fetchval("SELECT 1")
            with pytest.raises(asyncpg.ConnectionDoesNotExistError):
                await call(doomed)
            await pool.release(doomed)
            await pool.release(other)

    @pytest.mark.parametrize("inner", [False, True], ids=["COMMIT", "RELEASE"])
    async def test_are_one_at_the_end_of_a_transaction(
        self, make_pool: MakePool, proxy: Proxy, inner: bool
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2)
        doomed, other = await borrow_all(pool, 2)

        async def work() -> None:
            async with doomed.transaction():
                await doomed.execute("SELECT 1")
                if inner:
                    async with doomed.transaction():
                        await end()
                else:
                    await end()

        async def end() -> None:
            await (await link_of(doomed, proxy)).say(LAST_WORDS)
            await other.fetchval("SELECT 1")

        with pytest.raises(StatementNotSent):
            await work()
        await pool.release(doomed)
        await pool.release(other)

    @pytest.mark.parametrize("how", ["commit", "rollback"])
    async def test_are_one_where_it_is_ended_by_hand(
        self, make_pool: MakePool, proxy: Proxy, how: str
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=2)
        doomed, other = await borrow_all(pool, 2)
        transaction = doomed.transaction()
        await transaction.start()
        await (await link_of(doomed, proxy)).say(LAST_WORDS)
        await other.fetchval("SELECT 1")
        with pytest.raises(StatementNotSent):
            await getattr(transaction, how)()
        await pool.release(doomed)
        await pool.release(other)


class TestDeadReturn:
    async def test_the_return_of_one_that_has_ended_is_quiet(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(max_size=1)
        for end in (lambda lease: lease.terminate(), lambda lease: end_backend(lease.get_server_pid())):
            lease = await pool.acquire()
            await lease.execute("SET a.b = 'c'")
            end(lease)
            await pool.release(lease)
            assert await pool.fetchval("SELECT 1") == 1
        assert events.named("return_failed") == []
