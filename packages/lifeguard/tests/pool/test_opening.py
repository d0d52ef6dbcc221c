"""How connections come to be: in the background, few at once, slower after each failure."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import asyncpg
import pytest
from lifeguard.pool import Lease, Pool, PoolError, PoolTimeout, PoolUnavailable, opener
from lifeguard.pool.race import STAGGER
from lifeguard.testing.proxy import HOST, Proxy, full_backlog
from lifeguard.testing.servers import PostgresServer, unused_port
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.pool.balance import at_rest
from packages.lifeguard.tests.pool.borrowers import on_ports, pid_of_next, waiting
from packages.lifeguard.tests.pool.conftest import Events, MakePool
from packages.lifeguard.tests.stopwatch import Stopwatch

_roles = count(1)


@pytest.fixture
def nobody_there() -> str:
    """The address of a server that is not running."""
    return f"postgresql://nobody:secret@{HOST}:{unused_port()}/none"


async def borrow(pool: Pool) -> int:
    async with pool.acquire() as lease:
        return lease.get_server_pid()


class TestWarmUp:
    """`open()` starts opening the minimum and does not wait for it."""

    async def test_the_minimum_is_opened_unasked(self, make_pool: MakePool) -> None:
        pool = await make_pool(min_size=5, max_size=8)
        await eventually(lambda: at_rest(pool.stats()))
        assert pool.get_size() == pool.get_idle_size() == 5

    async def test_it_is_gradual(self, make_pool: MakePool, proxy: Proxy) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, min_size=12, max_size=12, ready=False)
        at_once: list[int] = []
        while len(at_once) < 12:
            await eventually(
                lambda: len(proxy.links) == pool.get_size() + pool.stats().opening > len(at_once)
            )
            proxy.links[len(at_once)].resume()
            at_once.append(pool.stats().opening)
            await eventually(lambda: pool.get_size() == len(at_once))
        assert at_once[:3] == [1, 2, 4]  # the first one shows whether there is a server at all
        assert max(at_once) == opener.MOST_AT_ONCE

    async def test_the_minimum_is_kept(self, make_pool: MakePool, postgres: PostgresServer) -> None:
        pool = await make_pool(min_size=2, max_size=3)
        killed = await borrow(pool)
        await postgres.kill(killed)
        await eventually(lambda: pool.stats().closed == {"lost": 1} and pool.get_idle_size() == 2)

    async def test_a_pool_without_minimum_opens_nothing_unasked(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=0)
        assert proxy.accepted == 0
        assert await pool.fetchval("SELECT 1") == 1
        assert proxy.accepted == 1

    async def test_wait_ready_waits_for_a_connection(self, make_pool: MakePool, proxy: Proxy) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, ready=False)
        with pytest.raises(PoolTimeout):
            await pool.wait_ready(0.05)
        proxy.resume()
        await pool.wait_ready(5)
        assert pool.get_size() == 1


class TestDemand:
    """What is opened for a borrower is not the borrower's."""

    async def test_the_borrower_s_cancel_does_not_undo_it(self, make_pool: MakePool, proxy: Proxy) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, min_size=0)
        borrower = asyncio.create_task(borrow(pool))
        await eventually(lambda: proxy.links)
        borrower.cancel()
        await asyncio.wait([borrower])
        proxy.resume()
        await eventually(lambda: pool.get_idle_size() == 1)
        assert proxy.accepted == 1

    async def test_a_late_connection_goes_to_the_next_waiter(self, make_pool: MakePool, proxy: Proxy) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, min_size=0, max_size=1)
        first = asyncio.create_task(borrow(pool))
        await eventually(lambda: proxy.links)
        second = asyncio.create_task(borrow(pool))
        await eventually(lambda: pool.stats().waiting == 2)
        first.cancel()
        proxy.resume()
        assert await second
        assert proxy.accepted == 1

    async def test_nothing_more_is_opened_when_the_demand_is_gone(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, min_size=0, max_size=5)
        borrowers = [asyncio.create_task(borrow(pool)) for _ in range(5)]
        await eventually(lambda: proxy.links)
        for borrower in borrowers:
            borrower.cancel()
        await asyncio.wait(borrowers)
        proxy.resume()
        await eventually(lambda: at_rest(pool.stats()))
        assert proxy.accepted == 1

    async def test_a_connection_returned_meanwhile_serves_the_waiter(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=2)
        proxy.hold_new = True
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            waiter = asyncio.create_task(borrow(pool))
            await eventually(lambda: pool.stats().opening == 1)
        assert await waiter == pid
        proxy.resume()
        await eventually(lambda: pool.get_idle_size() == 2)

    async def test_the_maximum_holds_while_connections_are_closing(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=1)
        closing = proxy.links[0]
        closing.silence()  # so that it does not get its goodbye to the server
        await pool.expire_connections()
        waiter = asyncio.create_task(borrow(pool))
        await eventually(lambda: pool.stats().closing == 1 and pool.stats().waiting == 1)
        assert proxy.accepted == 1
        closing.resume()
        assert await waiter
        assert proxy.accepted == 2


class TestFailure:
    async def test_who_asks_learns_within_milliseconds_that_nobody_is_there(
        self, make_pool: MakePool, nobody_there: str
    ) -> None:
        async with Stopwatch() as watch:
            pool = await make_pool(nobody_there, ready=False)
            for _ in range(3):
                with pytest.raises(PoolUnavailable) as caught:
                    await pool.acquire(timeout=5)
                assert isinstance(caught.value.__cause__, ConnectionRefusedError)
                assert 0 <= caught.value.retry_after <= opener.HIGHEST_CEILING
        assert watch.seconds < 0.5

    async def test_neither_message_nor_event_names_the_password(
        self, make_pool: MakePool, nobody_there: str, events: Events
    ) -> None:
        pool = await make_pool(nobody_there, ready=False)
        with pytest.raises(PoolUnavailable) as caught:
            await pool.acquire()
        assert "secret" not in str(caught.value) + repr(caught.value.__cause__) + repr(list(events))

    async def test_the_pool_recovers_unaided_when_the_server_appears(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        port = unused_port()
        proxy = Proxy(postgres.dsn(), port)
        pool = await make_pool(on_ports(postgres, port), min_size=2, ready=False)
        await eventually(lambda: pool.stats().open_failures >= 2)
        async with proxy.serve():
            async with Stopwatch() as watch:
                await eventually(lambda: pool.get_idle_size() == 2)
            assert watch.seconds < 3
            assert pool.stats().last_error is None
            await pool.drain(1)

    async def test_wait_ready_waits_for_the_server_to_appear(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        port = unused_port()
        pool = await make_pool(on_ports(postgres, port), ready=False)
        ready = asyncio.create_task(pool.wait_ready(10))
        await eventually(lambda: pool.stats().open_failures >= 2)
        async with Proxy(postgres.dsn(), port).serve():
            await ready
            await pool.drain(1)

    async def test_wait_ready_gives_up_with_the_reason(self, make_pool: MakePool, nobody_there: str) -> None:
        pool = await make_pool(nobody_there, ready=False)
        with pytest.raises((PoolUnavailable, PoolTimeout)) as caught:
            await pool.wait_ready(0.2)
        assert "ConnectionRefusedError" in str(caught.value)

    async def test_those_who_wait_can_be_told_that_it_is_no_use(self, make_pool: MakePool) -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire():
            waiters = [asyncio.create_task(pid_of_next(pool)) for _ in range(2)]
            await waiting(pool, 2)
            assert pool.refuse_waiting() == 2
            for waiter in waiters:
                with pytest.raises(PoolUnavailable):
                    await waiter

    async def test_a_password_that_does_not_come_in_time_says_so_itself(self, make_pool: MakePool) -> None:
        async def password() -> str:
            raise TimeoutError("the vault does not answer")

        pool = await make_pool(password=password, ready=False)
        with pytest.raises(PoolUnavailable, match="the vault does not answer"):
            await pool.acquire()

    async def test_attempts_come_ever_more_rarely_and_at_random(
        self, make_pool: MakePool, nobody_there: str, events: Events
    ) -> None:
        pools = [await make_pool(nobody_there, ready=False, min_size=5, max_size=5) for _ in range(10)]
        await eventually(lambda: all(pool.stats().open_failures >= 4 for pool in pools))
        fourth = []
        for pool in pools:
            delays = [delay_after(event) for event in events if event.stats.name == pool.name]
            for failures, delay in enumerate(delays):
                assert delay <= min(opener.FIRST_CEILING * 2**failures, opener.HIGHEST_CEILING)
            fourth.append(delays[3])
        assert max(fourth) > 2 * opener.FIRST_CEILING  # beyond the first ceilings...
        assert min(fourth) < max(fourth) / 2  # ...and anywhere below its own

    async def test_a_server_that_refuses_is_asked_by_one_attempt_at_a_time(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, min_size=5, max_size=5)
        proxy.hold_new = True
        proxy.reset_links()
        await eventually(lambda: pool.stats().opening > 1)
        proxy.refuse_new = True
        proxy.reset_links()
        await eventually(lambda: not pool.stats().opening)
        proxy.hold_new, proxy.refuse_new = True, False
        failures = pool.stats().open_failures
        await eventually(lambda: proxy.links)
        assert pool.stats().opening == len(proxy.links) == 1
        proxy.reset_links()
        await eventually(lambda: pool.stats().open_failures > failures)
        proxy.resume()
        await eventually(lambda: pool.get_idle_size() == 5)

    async def test_a_borrower_waits_for_a_lease_although_nothing_can_be_opened(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        pool = await make_pool(proxy.dsn, max_size=2)
        proxy.refuse_new = True
        async with pool.acquire() as lease:
            pid = lease.get_server_pid()
            waiter = asyncio.create_task(borrow(pool))
            await eventually(lambda: pool.stats().open_failures)
            assert not waiter.done()
        assert await waiter == pid

    async def test_too_many_connections_leave_the_pool_with_what_it_has(
        self, make_pool: MakePool, postgres: PostgresServer, limited_role: str
    ) -> None:
        pool = await make_pool(limited_role, min_size=1, max_size=10)
        pids = set(await asyncio.gather(*(borrow(pool) for _ in range(50))))
        assert len(pids) <= 3
        assert "TooManyConnections" in (pool.stats().last_error or "TooManyConnections")
        assert pool.stats().used == 0

    async def test_a_server_that_says_nothing_costs_the_connect_timeout(
        self, make_pool: MakePool, proxy: Proxy
    ) -> None:
        proxy.hold_new = True
        pool = await make_pool(proxy.dsn, connect_timeout=0.2, ready=False)
        async with Stopwatch() as watch:
            with pytest.raises(PoolUnavailable) as caught:
                await pool.acquire(timeout=5)
        assert watch.seconds < 0.6
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert str(proxy.port) in str(caught.value.__cause__)


def delay_after(event: object) -> float:
    delay = event.details["retry_in"]  # type: ignore[attr-defined]
    assert isinstance(delay, float)
    return delay


@pytest.fixture
async def limited_role(postgres: PostgresServer) -> AsyncIterator[str]:
    """The server as seen by a role that may have three connections."""
    async with postgres.connect() as admin:
        name = f"limited_{next(_roles)}"
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{postgres.password}' CONNECTION LIMIT 3")
        yield postgres.dsn(user=name)
        await admin.execute(f"DROP ROLE {name}")


class TestInit:
    """The `init` hook belongs to the opening of a connection."""

    async def test_it_runs_once_for_each_connection(self, make_pool: MakePool) -> None:
        seen = []

        async def init(connection: asyncpg.Connection) -> None:
            seen.append(connection)
            await connection.execute("SET search_path = pg_catalog")

        pool = await make_pool(min_size=2, init=init)
        for _ in range(5):
            assert await pool.fetchval("SHOW search_path") == "pg_catalog"
        assert len(seen) == len(set(seen)) == 2

    async def test_it_runs_again_after_a_reset_which_undoes_what_it_did(self, make_pool: MakePool) -> None:
        async def init(connection: asyncpg.Connection) -> None:
            await connection.execute("SET search_path = pg_catalog")

        pool = await make_pool(max_size=1, init=init)
        await pool.execute("SET search_path = public")
        assert await pool.fetchval("SHOW search_path") == "pg_catalog"

    async def test_its_failure_is_a_failure_to_open(self, make_pool: MakePool) -> None:
        fail = True

        async def init(connection: asyncpg.Connection) -> None:
            if fail:
                await connection.execute("SELECT 1 / 0")

        pool = await make_pool(init=init, ready=False)
        with pytest.raises(PoolUnavailable) as caught:
            await pool.acquire()
        assert isinstance(caught.value.__cause__, asyncpg.DivisionByZeroError)
        fail = False
        await eventually(lambda: pool.get_idle_size() == 1)

    async def test_it_has_the_connect_timeout_and_no_more(self, make_pool: MakePool) -> None:
        async def init(_: asyncpg.Connection) -> None:
            await asyncio.Event().wait()

        pool = await make_pool(init=init, connect_timeout=0.2, ready=False)
        async with Stopwatch() as watch:
            with pytest.raises(PoolUnavailable):
                await pool.acquire()
        assert watch.seconds < 0.6


@contextmanager
def mute() -> Iterator[int]:
    """A port whose listener accepts everybody and says nothing (the kernel does the accepting)."""
    with socket.create_server((HOST, 0), backlog=100) as listener:
        port: int = listener.getsockname()[1]
        yield port


@contextmanager
def nobody() -> Iterator[int]:
    yield unused_port()


class TestSeveralHosts:
    """Each host of a URL has the connect timeout for itself."""

    @pytest.mark.parametrize("first_host", [full_backlog, mute, nobody])
    async def test_a_dead_first_host_costs_less_than_its_connect_timeout_once(
        self, make_pool: MakePool, postgres: PostgresServer, first_host: object, events: Events
    ) -> None:
        with first_host() as dead:  # type: ignore[operator]
            dsn = on_ports(postgres, dead, postgres.port)
            pool = await make_pool(dsn, min_size=3, max_size=3, connect_timeout=3)
            assert await pool.fetchval("SELECT 1") == 1
        first, *others = [event.details["seconds"] for event in events.named("connection_opened")]
        assert isinstance(first, float)
        assert first < STAGGER + 0.3
        assert all(isinstance(seconds, float) and seconds < STAGGER for seconds in others)

    async def test_a_first_host_that_hangs_up_is_passed_over(
        self, make_pool: MakePool, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        proxy.refuse_new = True
        pool = await make_pool(on_ports(postgres, proxy.port, postgres.port))
        assert await pool.fetchval("SELECT 1") == 1

    async def test_when_all_are_dead_each_one_s_answer_is_named(
        self, make_pool: MakePool, postgres: PostgresServer
    ) -> None:
        with full_backlog() as black_hole:
            pool = await make_pool(
                on_ports(postgres, black_hole, unused_port()), connect_timeout=0.2, ready=False
            )
            with pytest.raises(PoolUnavailable) as caught:
                await pool.acquire()
        reasons = caught.value.__cause__.reasons.values()  # type: ignore[union-attr]  # NoHostServes
        assert [type(reason) for reason in reasons] == [TimeoutError, ConnectionRefusedError]

    async def test_a_wrong_password_is_not_tried_elsewhere(
        self, make_pool: MakePool, postgres: PostgresServer, proxy: Proxy
    ) -> None:
        dsn = on_ports(postgres, postgres.port, proxy.port)
        pool = await make_pool(dsn, password="wrong", ready=False)
        with pytest.raises(PoolUnavailable) as caught:
            await pool.acquire()
        assert isinstance(caught.value.__cause__, asyncpg.InvalidPasswordError)
        assert proxy.accepted == 0


class TestImpatience:
    async def test_a_refusal_lets_the_event_loop_turn(self, make_pool: MakePool, nobody_there: str) -> None:
        """Else borrowers that try again at once would keep it from everything, also from opening."""
        loop = asyncio.get_running_loop()
        empty = await make_pool(nobody_there, ready=False)
        await eventually(lambda: empty.stats().open_failures)
        busy = await make_pool(max_size=1)
        closed = await make_pool()
        await closed.close()
        async with busy.acquire():
            for pool, timeout in ((empty, None), (busy, 0), (closed, None)):
                turned = asyncio.Event()
                loop.call_soon(turned.set)
                with pytest.raises(PoolError):
                    await pool.acquire(timeout=timeout)
                assert turned.is_set()

    async def test_new_arguments_are_tried_at_once(
        self,
        make_pool: MakePool,
        postgres: PostgresServer,
        events: Events,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(opener, "random", SimpleNamespace(uniform=lambda *_: 60.0))
        pool = await make_pool(password="wrong", ready=False)
        await eventually(lambda: events.named("open_blocked"))
        pool.set_connect_args(postgres.dsn())
        await eventually(lambda: pool.get_idle_size() == 1)

    async def test_an_attempt_with_the_old_arguments_does_not_delay_the_new_ones(
        self, make_pool: MakePool, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(opener, "random", SimpleNamespace(uniform=lambda *_: 60.0))
        asked, answer = asyncio.Event(), asyncio.Event()

        async def password() -> str:
            asked.set()
            await answer.wait()
            return "wrong"

        pool = await make_pool(password=password, ready=False)
        await asked.wait()
        pool.set_connect_args(postgres.dsn())
        await asyncio.sleep(0)
        answer.set()
        await eventually(lambda: pool.get_idle_size() == 1)


class TestArguments:
    async def test_an_option_that_nobody_knows_is_refused_when_the_pool_is_made(self) -> None:
        with pytest.raises(TypeError, match="max_queries"):
            Pool("postgresql://", max_queries=5)

    async def test_a_url_that_nobody_can_read_is_refused_when_the_pool_is_made(self) -> None:
        with pytest.raises(ValueError, match="invalid DSN"):
            Pool("mysql://here/there")

    @pytest.mark.parametrize(
        "options",
        [
            {"max_size": 0},
            {"min_size": -1},
            {"min_size": 3, "max_size": 2},
            {"max_waiting": -1},
            {"acquire_timeout": 0},
            {"connect_timeout": 0},
            {"queue_target": -1},
            {"idle_timeout": -0.1},
            {"max_lifetime": float("nan")},
            {"reset": "sometimes"},
        ],
        ids=str,
    )
    def test_a_setting_out_of_its_range_is_named(self, options: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=next(iter(options))):
            Pool("postgresql://", **options)  # type: ignore[arg-type]

    async def test_setup_sees_what_init_did(self, make_pool: MakePool) -> None:
        async def init(connection: asyncpg.Connection) -> None:
            await connection.execute("SET application_name = 'greeted'")

        async def setup(lease: Lease) -> None:
            assert await lease.fetchval("SHOW application_name") == "greeted"

        pool = await make_pool(init=init, setup=setup)
        assert await pool.fetchval("SELECT 1") == 1
