"""The pools behind their breakers, before real servers that are away, starting, full, strange or slow."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from lifeguard.database import BreakerState, Database, DatabaseUnavailable, call_scope
from lifeguard.pool import PoolError, PoolTimeout, PoolUnavailable
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer, copy_cluster, server_directory
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, checks, within
from packages.lifeguard.tests.pool.balance import assert_balanced, at_rest
from packages.lifeguard.tests.stopwatch import Stopwatch

RECOVERY = 3.0
"""Seconds from the return of a server until it is used again, at most."""
UNAVAILABLE = (PoolUnavailable, DatabaseUnavailable)
BREAKER_FAIL_MAX = 5


@pytest.fixture(scope="module")
def own_server(cluster: Path) -> Iterator[PostgresServer]:
    """The module's own: it is stopped, and its log tells of every statement."""
    with server_directory() as directory:
        server = PostgresServer(copy_cluster(cluster, directory / "own"), {"log_statement": "all"})
        yield server
        server.close()


@pytest.fixture
async def server(own_server: PostgresServer) -> PostgresServer:
    await own_server.start()
    return own_server


class Users:
    """Borrowers who ask again and again, and what became of it."""

    def __init__(self, database: Database, count: int, query: str = "SELECT 'user'") -> None:
        self._database = database
        self._count = count
        self._query = query
        self.served = 0
        self.errors: list[Exception] = []

    @asynccontextmanager
    async def asking(self) -> AsyncIterator["Users"]:
        tasks = [asyncio.create_task(self._ask()) for _ in range(self._count)]
        try:
            yield self
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended

    async def are_served(self, times: int = 20) -> None:
        """Wait until they have been served so often from now on."""
        enough = self.served + times
        await eventually(lambda: self.served >= enough)

    async def _ask(self) -> None:
        while True:
            try:
                async with self._database.read() as connection:
                    await connection.fetchval(self._query)
                self.served += 1
            except (PoolError, DatabaseUnavailable) as error:
                self.errors.append(error)
                await asyncio.sleep(0.01)  # or nobody else would get a turn


class Hog:
    """Sessions that somebody else holds."""

    def __init__(self, url: str, *, sessions: int) -> None:
        self._url = url
        self._wanted = sessions
        self._held: list[asyncpg.Connection] = []

    async def __aenter__(self) -> "Hog":
        self._held = [await asyncpg.connect(self._url) for _ in range(self._wanted)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        while self._held:
            await self._held.pop().close()


async def settled(database: Database) -> None:
    """Wait until nothing is in use and the minimum is there again, and the breaker closed."""
    pool = database.primary
    await eventually(lambda: at_rest(pool.stats()) and pool.get_size() >= pool.get_min_size())
    assert_balanced(pool.stats())
    # Sessions that were silent serve their users before a probe has closed it.
    await eventually(lambda: database.breaker.state is BreakerState.CLOSED)


async def is_open(database: Database) -> None:
    await eventually(lambda: database.breaker.state is BreakerState.OPEN)


class TestServerGone:
    async def test_who_waits_is_told_at_once(
        self, make_database: MakeDatabase, server: PostgresServer
    ) -> None:
        database = await make_database(server.dsn(), pool_acquire_timeout=30, pool_outage_patience=0)

        async def hold() -> None:
            async with database.connection() as connection:
                await connection.execute("SELECT pg_sleep(30)")

        requests = [asyncio.create_task(hold()) for _ in range(15)]
        await eventually(lambda: database.primary.stats().used == 5)
        assert database.primary.stats().waiting == 10
        await server.stop("immediate")
        async with Stopwatch() as watch:
            errors = await asyncio.gather(*requests, return_exceptions=True)
        assert watch.seconds < 1
        assert {type(error) for error in errors} <= set(UNAVAILABLE)
        assert len(errors) == 15

    async def test_who_waits_for_its_end_is_served_and_opens_no_breaker(
        self, make_database: MakeDatabase, server: PostgresServer
    ) -> None:
        """Those at work are told that they have lost their sessions: that makes the breaker ask."""
        database = await make_database(
            server.dsn(), pool_acquire_timeout=60, pool_outage_patience=60, breaker_fail_max=1
        )

        async def hold() -> None:
            async with database.connection() as connection:
                await connection.execute("SELECT pg_sleep(60)")

        async def ask() -> int:
            async with database.connection() as connection:
                return int(await connection.fetchval("SELECT 1"))

        holding = [asyncio.create_task(hold()) for _ in range(5)]
        await eventually(lambda: database.primary.stats().used == 5)
        waiting = [asyncio.create_task(ask()) for _ in range(10)]
        await server.stop("fast")
        await eventually(lambda: database.primary.waits_out_outage)
        later = [asyncio.create_task(ask()) for _ in range(10)]
        await eventually(lambda: database.primary.stats().open_failures > BREAKER_FAIL_MAX)
        await server.start()
        errors = await asyncio.gather(*holding, return_exceptions=True)
        assert {type(error) for error in errors} == {DatabaseUnavailable}
        assert await asyncio.gather(*waiting, *later) == [1] * 20
        await eventually(lambda: not checks())
        assert not database.breaker.transitions

    async def test_who_waits_is_served_although_nothing_was_heard_meanwhile(
        self, make_database: MakeDatabase, server: PostgresServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A busy machine, or a proxy: no attempt has failed when the breaker's question has had its time."""
        monkeypatch.setattr("lifeguard.database.breaker.PROBE_PATIENCE", 0.05)
        async with Proxy(server.dsn()).serve() as proxy:
            database = await make_database(
                proxy.dsn,
                pool_acquire_timeout=60,
                pool_connect_timeout=60,
                pool_outage_patience=60,
                breaker_fail_max=100,
            )

            async def ask(query: str) -> int:
                async with database.connection() as connection:
                    return int(await connection.fetchval(query))

            holding = [asyncio.create_task(ask("SELECT 1 FROM pg_sleep(60)")) for _ in range(5)]
            await eventually(lambda: database.primary.stats().used == 5)
            proxy.hold_new = True
            proxy.reset_links()
            assert set(map(type, await asyncio.gather(*holding, return_exceptions=True))) == {
                DatabaseUnavailable
            }
            waiting = [asyncio.create_task(ask("SELECT 1")) for _ in range(10)]
            await eventually(lambda: database.primary.get_size() == 0)
            database.breaker.suspect()
            before = proxy.accepted
            await eventually(lambda: proxy.accepted >= before + 8)  # more than the pool's
            assert not database.breaker.transitions
            proxy.resume()
            assert await asyncio.gather(*waiting) == [1] * 10
            await eventually(lambda: not checks())
            assert not database.breaker.transitions

    async def test_refusals_cost_no_wait_and_say_when_to_come_back(
        self, make_database: MakeDatabase, server: PostgresServer
    ) -> None:
        database = await make_database(server.dsn(), breaker_reset_timeout=10)
        async with Users(database, 5).asking() as users:
            await users.are_served()
            await server.stop()
            await is_open(database)
        for _ in range(1000):
            with pytest.raises(DatabaseUnavailable) as refused:
                database.connection().__aenter__().send(None)  # without giving the loop a turn
            assert 0 < refused.value.retry_after <= 10

    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    async def test_the_probe_is_nobodys_request(
        self, make_database: MakeDatabase, server: PostgresServer, mode: str
    ) -> None:
        database = await make_database(server.dsn(), pool_min_size=3)
        async with Users(database, 20).asking() as users:
            await users.are_served()
            await server.stop("immediate" if mode == "immediate" else "fast")
            await is_open(database)
            said_before = len(statements(server))
            await server.start()
            async with Stopwatch() as watch:
                await users.are_served(1)
            assert watch.seconds < RECOVERY
            await users.are_served(200)
        since = statements(server)[said_before:]
        first_user = next(number for number, line in enumerate(since) if "SELECT 'user'" in line)
        assert len([line for line in since[:first_user] if line.endswith("SELECT 1")]) == 1
        await settled(database)

        async def server_has_those_of_the_pool() -> bool:
            return len(await server.backends(application_name="ledger")) == database.primary.get_size()

        await eventually(server_has_those_of_the_pool)

    async def test_the_service_is_there_before_its_server(
        self, make_database: MakeDatabase, server: PostgresServer
    ) -> None:
        await server.stop()
        database = await make_database(server.dsn())
        async with Users(database, 5).asking() as users:
            await is_open(database)
            await server.start()
            async with Stopwatch() as watch:
                await users.are_served(1)
            assert watch.seconds < RECOVERY
        await settled(database)

    async def test_a_server_that_is_still_starting_is_waited_for(
        self, make_database: MakeDatabase, server: PostgresServer
    ) -> None:
        """A standby without hot standby says 57P03 to everybody, until it is promoted."""
        await server.stop()
        data = server.directory / "data"
        (data / "standby.signal").touch()
        with (data / "postgresql.auto.conf").open("a") as settings:
            settings.write("hot_standby = off\n")
        starting = asyncio.create_task(server.start())
        database = await make_database(server.dsn())

        async def told() -> bool:
            return "CannotConnectNowError" in (database.primary.stats().last_error or "")

        async with Users(database, 5).asking() as users:
            await eventually(told)
            await is_open(database)
            assert not users.served
            (data / "promote").touch()
            postmaster = int((data / "postmaster.pid").read_text().split()[0])
            await eventually(lambda: promoted(postmaster, starting))
            async with Stopwatch() as watch:
                await users.are_served(1)
            assert watch.seconds < RECOVERY
        await settled(database)


class TestServerSilent:
    """Connections stand, nothing answers: a partition, a frozen machine."""

    async def test_trips_it_by_waits_in_which_nobody_was_served(
        self, make_database: MakeDatabase, database_url: str
    ) -> None:
        async with Proxy(database_url).serve() as proxy:
            # Sessions in use are not cut before the command timeout; only their waiters learn anything.
            database = await make_database(
                proxy.dsn,
                pool_acquire_timeout=0.3,
                pool_min_size=5,
                pool_max_size=5,
                breaker_reset_timeout=0.1,
            )
            async with Users(database, 20).asking() as users:
                await users.are_served()
                proxy.hold_new = True
                proxy.silence()
                await is_open(database)
                assert any(isinstance(error, PoolTimeout) and error.stalled for error in users.errors)
                asked = proxy.asked
                refused = len(users.errors)
                await eventually(lambda: len(users.errors) >= refused + 200)
                # Whoever asked has cost nothing; at most, the probe was sent to a session once.
                assert proxy.asked - asked <= 2
                proxy.resume()
                async with Stopwatch() as watch:
                    await users.are_served(1)
                assert watch.seconds < RECOVERY
            await settled(database)


class TestServerUnwilling:
    async def test_a_wrong_password_is_put_right_without_a_restart(
        self, make_database: MakeDatabase, server: PostgresServer, tmp_path: Path
    ) -> None:
        secret = tmp_path / "password"
        secret.write_text("wrong")
        async with server.connect() as admin:
            await admin.execute("CREATE ROLE rotating LOGIN PASSWORD 'first'")
        url = f"postgresql://rotating@127.0.0.1:{server.port}/postgres"
        database = await make_database(url, database_password_file=secret)
        async with Users(database, 5).asking() as users:
            await is_open(database)
            assert "InvalidPassword" in (database.primary.stats().last_error or "")
            secret.write_text("first")
            await users.are_served()
            async with server.connect() as admin:
                await admin.execute("ALTER ROLE rotating PASSWORD 'second'")
            secret.write_text("second")
            await server.kill_backends(application_name="ledger")
            await users.are_served()
        await settled(database)

    async def test_a_hog_leaves_what_there_is_in_service(
        self, make_database: MakeDatabase, postgres: PostgresServer
    ) -> None:
        """Too many connections (53300): no reason to stop with those that stand."""
        async with postgres.connect() as admin:
            await admin.execute("DROP ROLE IF EXISTS crowded")
            await admin.execute("CREATE ROLE crowded LOGIN PASSWORD 'x' CONNECTION LIMIT 4")
        url = f"postgresql://crowded:x@127.0.0.1:{postgres.port}/postgres"
        async with Hog(url, sessions=2) as hog:
            database = await make_database(url, pool_max_size=4, pool_queue_target=0)
            async with Users(database, 20, "SELECT pg_sleep(0.001)").asking() as users:
                await users.are_served()
                await eventually(lambda: database.primary.stats().open_failures > 2)
                await users.are_served(200)
                assert "TooManyConnections" in (database.primary.stats().last_error or "")
                assert database.primary.get_size() == 2
                await hog.leave()
                await eventually(lambda: database.primary.get_size() == 4)
        assert not users.errors
        assert not database.breaker.transitions

    async def test_latency_does_not_trip_it(self, make_database: MakeDatabase, database_url: str) -> None:
        async with Proxy(database_url).serve() as proxy:
            database = await make_database(proxy.dsn, pool_min_size=5, breaker_fail_max=1)
            await eventually(lambda: database.primary.get_size() == 5)
            proxy.latency = 0.1  # each way
            async with Users(database, 20).asking() as users:
                await users.are_served(40)
            proxy.latency = 0.0
            await settled(database)
            assert not database.breaker.transitions


class TestOtherErrors:
    async def test_of_the_applications_own_do_not_count(self, make_database: MakeDatabase) -> None:
        database = await make_database(breaker_fail_max=1, statement_timeout=0.05, lock_timeout=0.05)
        for query in ("SELECT 1/0", "SELECT pg_sleep(1)", "SELECT nonsense"):
            with pytest.raises(asyncpg.PostgresError):
                async with database.read() as connection:
                    await connection.fetchval(query)
        with pytest.raises(KeyError):
            async with database.transaction():
                raise KeyError
        assert not database.breaker.transitions

    async def test_of_a_full_house_do_not_count(self, make_database: MakeDatabase) -> None:
        """Those who have left, those who were shed, and those who had no time to begin with."""
        database = await make_database(breaker_fail_max=1, pool_max_size=1, pool_max_waiting=1)
        async with database.connection():
            token = call_scope.set(within(30))
            waiting = asyncio.create_task(borrow(database))
            call_scope.reset(token)
            await eventually(lambda: database.primary.stats().waiting)
            with pytest.raises(PoolError):
                await borrow(database)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
        await borrow(database)
        assert not database.breaker.transitions

    async def test_one_killed_backend_costs_one_request(
        self, make_database: MakeDatabase, postgres: PostgresServer
    ) -> None:
        database = await make_database(pool_min_size=5)
        pids: list[int] = []

        async def work() -> None:
            async with database.connection() as connection:
                pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
                await connection.execute("SELECT pg_sleep(30)")

        async with Users(database, 5).asking() as users:
            await users.are_served()
            working = asyncio.create_task(work())
            await eventually(lambda: pids)
            await postgres.kill(*pids)
            with pytest.raises(DatabaseUnavailable):
                await working
            await users.are_served()
        assert not users.errors
        assert not database.breaker.transitions
        await settled(database)


class TestBusy:
    """Everybody waits in vain, and the server is well."""

    async def test_a_long_query_that_six_wait_for_does_not_trip_it(
        self, make_database: MakeDatabase, postgres: PostgresServer, database_url: str
    ) -> None:
        database = await make_database(pool_max_size=1, pool_acquire_timeout=0.3, breaker_fail_max=5)
        await database.primary.wait_ready(60)
        async with database.connection() as connection:
            running = asyncio.create_task(connection.execute("SELECT pg_sleep(10)"))
            for _ in range(2):
                errors = await asyncio.gather(*(borrow(database) for _ in range(6)), return_exceptions=True)
                assert {type(error) for error in errors} == {PoolTimeout}
            assert all(isinstance(error, PoolTimeout) and error.stalled for error in errors)
            await eventually(lambda: not checks())

            async def one_session_is_left() -> bool:
                own = urlsplit(database_url).path.removeprefix("/")
                return len(await postgres.backends(own, application_name="ledger")) == 1

            await eventually(one_session_is_left)  # the one that asked is gone
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        await borrow(database)
        assert not database.breaker.transitions

    async def test_a_role_without_a_session_to_spare_does_not_trip_it(
        self, make_database: MakeDatabase, postgres: PostgresServer
    ) -> None:
        async with postgres.connect() as admin:
            await admin.execute("DROP ROLE IF EXISTS single")
            await admin.execute("CREATE ROLE single LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
        url = f"postgresql://single:x@127.0.0.1:{postgres.port}/postgres"
        database = await make_database(url, pool_max_size=1, pool_acquire_timeout=0.3, breaker_fail_max=1)
        await database.primary.wait_ready(60)
        async with database.connection():
            with pytest.raises(PoolTimeout):
                await borrow(database)
            await eventually(lambda: not checks())
        await borrow(database)
        assert not database.breaker.transitions

    async def test_impatient_calls_do_not_trip_it(self, make_database: MakeDatabase) -> None:
        """Whoever gives a wait less time than POOL_ACQUIRE_TIMEOUT learns nothing about the server."""
        database = await make_database(pool_max_size=1, breaker_fail_max=1, pool_queue_target=0)
        async with database.connection():
            token = call_scope.set(within(0.2))
            errors = await asyncio.gather(*(borrow(database) for _ in range(20)), return_exceptions=True)
            call_scope.reset(token)
            assert all(isinstance(error, PoolTimeout) and error.stalled for error in errors)
            assert not checks()
        await borrow(database)
        assert not database.breaker.transitions

    async def test_connections_in_use_do_not_keep_it_open(self, make_database: MakeDatabase) -> None:
        database = await make_database(pool_max_size=1, breaker_reset_timeout=0.1)
        async with database.connection():
            while database.breaker.state is BreakerState.CLOSED:
                database.breaker.cannot_connect()
            async with Stopwatch() as watch:
                await eventually(lambda: database.breaker.state.label == "closed")
            assert watch.seconds < 1.5


async def borrow(database: Database) -> None:
    async with database.connection():
        pass


async def promoted(postmaster: int, starting: asyncio.Task[None]) -> bool:
    """Ask for the promotion until it has happened: a server that is too young overlooks the signal."""
    os.kill(postmaster, signal.SIGUSR1)
    return starting.done()


def statements(server: PostgresServer) -> list[str]:
    """What clients have had the server do, in order."""
    lines = (server.directory / "server.log").read_text(errors="replace").splitlines()
    return [line for line in lines if "LOG:  statement: " in line or "LOG:  execute " in line]
