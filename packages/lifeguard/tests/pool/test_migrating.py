"""What code written for asyncpg.Pool relies on, beyond what asyncpg's own tests look at (in peers)."""

import asyncio
import gc
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool, PoolClosing, PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.borrowers import pid_of_next
from packages.lifeguard.tests.pool.conftest import Events, MakePool, Watcher

NOTICE = "DO $$ BEGIN RAISE NOTICE 'hello'; END $$"


class TestCallbacks:
    """They get the lease, which refuses once it has ended."""

    async def listen(self, lease: Lease, got: list[Any]) -> None:
        async def later(connection: Any, *_: object) -> None:
            got.append(connection)

        await lease.add_listener("news", lambda connection, *_: got.append(connection))
        await lease.add_listener("news", later)
        await lease.execute("NOTIFY news")

    async def log(self, lease: Lease, got: list[Any]) -> None:
        async def later(connection: Any, _: object) -> None:
            got.append(connection)

        lease.add_log_listener(lambda connection, _: got.append(connection))
        lease.add_log_listener(later)
        await lease.execute("SET client_min_messages = notice")
        await lease.execute(NOTICE)

    async def end(self, lease: Lease, got: list[Any]) -> None:
        lease.add_termination_listener(got.append)
        lease.add_termination_listener(got.append)  # once, as with asyncpg
        lease.add_termination_listener(partial(got.append))
        lease.terminate()

    @pytest.mark.parametrize("how", ["listen", "log", "end"])
    async def test_get_the_lease(self, make_pool: MakePool, how: str) -> None:
        pool = await make_pool(max_size=1)
        got: list[Any] = []
        lease = await pool.acquire()
        await getattr(self, how)(lease, got)
        await eventually(lambda: len(got) == 2)
        assert got == [lease, lease]
        await pool.release(lease)
        async with pool.acquire():
            with pytest.raises(asyncpg.InterfaceError, match="released"):
                await got[0].fetchval("SELECT 1")

    async def test_can_be_removed_by_their_function(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        got: list[Any] = []

        def note(*message: object) -> None:
            got.append(message)

        async with pool.acquire() as lease:
            await lease.add_listener("news", note)
            await lease.remove_listener("news", note)
            lease.add_log_listener(note)
            lease.remove_log_listener(note)
            await lease.execute("NOTIFY news")
            await lease.execute(NOTICE)
        assert got == []

    async def test_do_not_keep_a_forgotten_lease_alive(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        lease: Lease | None = await pool.acquire()
        assert lease is not None
        await lease.add_listener("news", print)
        del lease
        gc.collect()
        assert await pid_of_next(pool)
        assert pool.stats().leaks["abandoned"] == 1


class TestArguments:
    @pytest.mark.parametrize(
        ("argument", "error"),
        [
            ({"command_timeout": -1}, "command_timeout must be above 0"),
            ({"command_timeout": "5"}, "command_timeout must be above 0"),
            ({"init": 1}, "init must be"),
            ({"setup": "x"}, "setup must be"),
            ({"reset": 5}, "reset must be"),
            ({"init_size": 99}, "init_size must be between"),
            ({"connection_class": dict}, "connection_class must be"),
            ({"record_class": 5}, "record_class must be"),
        ],
    )
    def test_that_are_wrong_are_refused_at_once(self, argument: dict[str, Any], error: str) -> None:
        with pytest.raises((ValueError, TypeError), match=error):
            Pool(**argument)

    async def test_timeout_is_that_of_one_connect(self, make_pool: MakePool) -> None:
        async def never() -> str:
            await asyncio.Event().wait()
            return ""

        pool = await make_pool(min_size=0, timeout=0.05, password=never, ready=False)
        with pytest.raises(PoolUnavailable):
            await pool.acquire(timeout=4)
        assert isinstance(pool._state.last_error, TimeoutError)

    async def test_no_reset_is_the_pool_s_own(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1, reset=None)
        await pool.execute("SET statement_timeout = 77")
        assert await pool.fetchval("SHOW statement_timeout") == "0"

    async def test_an_override_may_take_less_or_more(self, make_pool: MakePool) -> None:
        class Own(asyncpg.Connection):
            async def fetchval(self, query: str, *, twice: bool = False) -> Any:  # type: ignore[override]
                value = await super().fetchval(query)
                return value * 2 if twice else value

        pool = await make_pool(connection_class=Own)
        async with pool.acquire() as lease:
            assert await lease.fetchval("SELECT 4") == 4
            assert await lease.fetchval("SELECT 4", twice=True) == 8  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "make",
    [
        lambda stats: PoolTimeout("late", stats, stalled=True),
        lambda stats: PoolSaturated("full", stats, reason="stale", retry_after=2.0),
        lambda stats: PoolUnavailable("gone", stats, retry_after=1.0),
        lambda stats: PoolClosing("over", stats),
    ],
)
def test_errors_can_be_pickled(make: Callable[[object], Exception]) -> None:
    error = make(Pool().stats())
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


async def test_an_unreachable_server_is_a_connection_error(make_pool: MakePool) -> None:
    pool = await make_pool(f"postgresql://x@127.0.0.1:{unused_port()}/x", ready=False)
    with pytest.raises(ConnectionError, match="no connection can be opened"):
        await pool.acquire()


class TestHooks:
    async def test_an_init_that_closes_is_a_failed_attempt(self, make_pool: MakePool, events: Events) -> None:
        async def close(connection: asyncpg.Connection) -> None:
            await connection.close()

        pool = await make_pool(init=close, ready=False)
        await eventually(lambda: pool.stats().open_failures == 3)
        assert pool.stats().opened == 0
        assert "closed in the init hook" in str(pool.stats().last_error)

    async def test_a_setup_that_leaves_a_transaction_open_has_failed(self, make_pool: MakePool) -> None:
        async def begin(lease: Lease) -> None:
            await lease.execute("BEGIN")

        pool = await make_pool(max_size=1, setup=begin)
        with pytest.raises(asyncpg.InterfaceError, match="setup hook left a transaction open"):
            await pool.acquire()
        assert pool.stats().closed == {"setup_failed": 1}

    async def test_what_is_left_behind_is_told_once_for_each_call_site(
        self, make_pool: MakePool, events: Events
    ) -> None:
        pool = await make_pool(max_size=1)
        for _ in range(2):
            async with pool.acquire() as lease:
                await lease.execute("BEGIN")
                await lease.add_listener("news", print)
        told = [event.details["what"] for event in events.named("left_behind")]
        assert told == ["a transaction", "notification listeners"]


async def leave_open(dsn: str) -> Pool:
    pool = Pool(dsn, min_size=1, max_size=1)
    await pool.open()
    await pool.wait_ready(5)
    return pool


class TestOtherLoops:
    # asyncio closes no sockets with its loop: the garbage collector does, and says so.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("closed", [False, True], ids=["between", "after"])
    def test_terminate_works_outside_of_them(self, postgres: PostgresServer, closed: bool) -> None:
        loop = asyncio.new_event_loop()
        pool = loop.run_until_complete(leave_open(postgres.dsn()))
        lease = loop.run_until_complete(self.borrow(pool))
        if closed:
            loop.close()
        pool.terminate()
        stats = pool.stats()
        assert stats.size == stats.closing == stats.used == 0
        assert pool.is_closing()
        with pytest.raises(asyncpg.InterfaceError):
            asyncio.run(self.use(lease))
        if not closed:
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        del lease, pool, loop
        gc.collect()

    async def borrow(self, pool: Pool) -> Lease:
        return await pool.acquire()

    async def use(self, lease: Lease) -> None:
        await lease.fetchval("SELECT 1")

    def test_close_on_another_loop_does_not_wait(self, postgres: PostgresServer) -> None:
        loop = asyncio.new_event_loop()
        pool = loop.run_until_complete(leave_open(postgres.dsn()))
        asyncio.run(self.close(pool))
        assert pool.stats().size == 0
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    async def close(self, pool: Pool) -> None:
        async with asyncio.timeout(2):
            await pool.close()

    async def test_close_beside_its_own_loop_is_refused(self, make_pool: MakePool) -> None:
        pool = await make_pool()
        with pytest.raises(asyncpg.InterfaceError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, self.close(pool))


async def test_a_dropped_pool_warns_and_closes_its_sessions(
    postgres: PostgresServer, watcher: Watcher
) -> None:
    name = {"application_name": "dropped"}
    pool = Pool(postgres.dsn(), min_size=2, max_size=2, server_settings=name)
    await pool.open()
    lease = await pool.acquire()
    with pytest.warns(ResourceWarning, match="dropped without being closed"):
        del pool  # nothing but timers held it
    assert await lease.fetchval("SELECT 1") == 1  # what was lent may go on
    lease.end()
    del lease

    async def gone() -> bool:
        return not await postgres.backends(application_name="dropped")

    await eventually(gone)
