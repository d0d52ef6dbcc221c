"""What a breaker must not take for a database that is away: locks, slow statements, full pools, sessions that
somebody has ended, and a process that did not run. It opens only if the database does not answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import asyncpg
import pytest
from lifeguard.database import Breaker, BreakerState, Database, DatabaseUnavailable
from lifeguard.pool import PoolError, PoolSaturated, PoolTimeout, PoolUnavailable
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, checks
from packages.lifeguard.tests.database.test_breaker import STATS
from packages.lifeguard.tests.database.test_guard import Users


async def borrow(database: Database) -> None:
    async with database.connection():
        pass


async def waits_in_vain(database: Database, number: int = 6, lane: str | None = None) -> None:
    """Let so many wait for a connection for the whole time there is."""

    async def wait() -> None:
        async with database.connection(lane=lane):
            pass

    errors = await asyncio.gather(*(wait() for _ in range(number)), return_exceptions=True)
    assert {type(error) for error in errors} <= {PoolTimeout, PoolSaturated}, errors


async def asked(database: Database) -> None:
    """Let a question that has begun come to its end."""
    await asyncio.sleep(0)
    await eventually(lambda: not checks())


class TestABusyDatabase:
    @pytest.mark.parametrize("fail_max", [1, 5])
    async def test_that_holds_a_lock_keeps_it_closed(
        self, make_database: MakeDatabase, fail_max: int
    ) -> None:
        """A table is locked: those who need it hold every connection, and the others wait in vain."""
        database = await make_database(
            breaker_fail_max=fail_max, pool_max_size=2, pool_acquire_timeout=0.3, lock_timeout=0.2
        )
        await database.primary.wait_ready(60)
        await database.execute("CREATE TABLE locked (id int)")

        async def use() -> None:
            async with database.transaction(lane="locked") as transaction:
                await transaction.execute("INSERT INTO locked VALUES (1)")

        async with AsyncExitStack() as stack:
            locker = await asyncpg.connect(database._settings.database_url.get_secret_value())  # type: ignore[union-attr]  # is set
            stack.push_async_callback(locker.close)
            await locker.execute("BEGIN; LOCK TABLE locked")
            for _ in range(3):
                ended = await asyncio.gather(*(use() for _ in range(6)), return_exceptions=True)
                said = {type(error) for error in ended}
                assert said <= {asyncpg.LockNotAvailableError, PoolTimeout, PoolSaturated}
        await asked(database)
        assert not database.breaker.transitions

    async def test_that_says_no_is_there(self, make_database: MakeDatabase) -> None:
        """What a statement is told, while others wait in vain, is a sign of life."""
        database = await make_database(
            pool_max_size=1, pool_acquire_timeout=0.3, statement_timeout=0.1, lock_timeout=0.1
        )
        await database.primary.wait_ready(60)
        async with Refusing(database):

            async def slow() -> None:
                with suppress(PoolError, asyncpg.QueryCanceledError):
                    async with database.connection() as connection:
                        await connection.execute("SELECT pg_sleep(10)")

            for _ in range(3):
                await asyncio.gather(*(slow() for _ in range(8)))
            await asked(database)
            assert not database.breaker.transitions

    async def test_whose_sessions_somebody_ends_keeps_it_closed(
        self, make_database: MakeDatabase, postgres: PostgresServer
    ) -> None:
        """As the runbook says of sessions that hold a lock: `pg_terminate_backend`, of all at once."""
        database = await make_database(pool_min_size=5, breaker_fail_max=2)

        async def hang() -> None:
            async with database.connection() as connection:
                await connection.execute("SELECT pg_sleep(30)")

        hanging = [asyncio.create_task(hang()) for _ in range(5)]
        await eventually(lambda: are_asleep(postgres, 5))
        await postgres.kill_backends(application_name="ledger")
        errors = await asyncio.gather(*hanging, return_exceptions=True)
        assert {type(error) for error in errors} == {DatabaseUnavailable}
        await asked(database)
        await borrow(database)
        assert not database.breaker.transitions

    async def test_that_init_waits_for_keeps_it_closed(self, make_database: MakeDatabase) -> None:
        """The question is none that a lock could keep from an answer."""
        database = await make_database(pool_max_size=1, pool_acquire_timeout=0.3, breaker_fail_max=1)
        await database.primary.wait_ready(60)

        async def init(_: object) -> None:
            await asyncio.Event().wait()

        async with database.connection():
            database.primary._lending.connector._init = init
            await waits_in_vain(database)
            await asked(database)
        assert not database.breaker.transitions


class Refusing:
    """While it is entered the server lets no new session in, and serves those that it has."""

    def __init__(self, database: Database) -> None:
        self._pool = database.primary

    async def __aenter__(self) -> None:
        self._reach = self._pool._lending.connector.reach

        async def reach(is_urgent: object = None) -> asyncpg.Connection:
            raise OSError("refused")

        self._pool._lending.connector.reach = reach  # type: ignore[method-assign]

    async def __aexit__(self, *_: object) -> None:
        self._pool._lending.connector.reach = self._reach  # type: ignore[method-assign]


class TestADatabaseThatIsAway:
    @pytest.mark.parametrize("lanes", [["one"], ["one", "two", "three"]])
    async def test_opens_it_in_however_many_lanes_its_users_are(
        self, make_database: MakeDatabase, database_url: str, lanes: list[str]
    ) -> None:
        async with Proxy(database_url).serve() as proxy:
            database = await make_database(
                proxy.dsn, pool_min_size=3, pool_max_size=3, pool_acquire_timeout=0.5
            )
            await eventually(lambda: database.primary.get_size() == 3)
            proxy.hold_new = True
            proxy.silence()

            async def use(lane: str) -> None:
                with suppress(PoolError, DatabaseUnavailable, TimeoutError):
                    async with database.connection(lane=lane) as connection:
                        await connection.execute("SELECT 1")

            using = [asyncio.create_task(use(lane)) for lane in lanes * 12]
            await eventually(lambda: database.breaker.state is BreakerState.OPEN)
            proxy.resume()
            await asyncio.gather(*using)


class Stopping:
    """A database that answers, asked by a process that does not run for some time: SIGSTOP has it so, or an
    endpoint that computes."""

    def __init__(
        self, seconds: float, times: int = 1, *, patience: float = 0.3, raises: bool = False
    ) -> None:
        self.seconds, self.times, self.patience, self.raises = seconds, times, patience, raises
        self.asked = 0

    async def answer(self) -> None:
        """It takes several turns of the loop, and has a time of its own, as a question of asyncpg's has."""
        self.asked += 1
        try:
            async with asyncio.timeout(self.patience):
                for _ in range(10):
                    self.stop()
                    await asyncio.sleep(0.001)
        except TimeoutError:
            if self.raises:
                raise ConnectionResetError("the server did not wait") from None
            raise

    def stop(self) -> None:
        if self.times:
            self.times -= 1
            time.sleep(self.seconds)


class TestAProcessThatDoesNotRun:
    @pytest.mark.parametrize(
        "stopping",
        [
            Stopping(0.4),  # less than what a question may take
            Stopping(0.4, raises=True),
            Stopping(0.15, 5, patience=30),  # again and again, never for long
            Stopping(0.7, patience=30),  # longer than a question may take
        ],
        ids=["once", "cut off", "often", "long"],
    )
    @pytest.mark.parametrize("question", ["the check", "the probe"])
    async def test_says_nothing_of_the_database(
        self, monkeypatch: pytest.MonkeyPatch, stopping: Stopping, question: str
    ) -> None:
        monkeypatch.setattr("lifeguard.database.breaker.PROBE_PATIENCE", 0.5)
        stopping = Stopping(
            stopping.seconds, stopping.times, patience=stopping.patience, raises=stopping.raises
        )
        breaker = breaker_of(stopping.answer)
        if question == "the check":
            breaker.suspect()
            await eventually(lambda: stopping.asked and not checks())
            assert not breaker.transitions
        else:
            breaker.cannot_connect()
            breaker.look_now()
            await eventually(lambda: breaker.state is BreakerState.CLOSED)
            assert breaker.transitions == {"open": 1, "half-open": 1, "closed": 1}
        await breaker.stop()

    @pytest.mark.parametrize("by", ["the pool", "its users"])
    async def test_and_cannot_connect_in_time_asks_first(self, by: str) -> None:
        """Attempts that were under way when it was stopped all end at once, and in vain."""
        silent = PoolUnavailable("no answer", STATS, retry_after=0.1)
        silent.__cause__ = TimeoutError("no answer within 5 s")
        asked = Stopping(0)
        breaker = breaker_of(asked.answer)
        for _ in range(10):
            if by == "the pool":
                breaker.cannot_connect(is_silent=True)
            else:
                breaker.failed(breaker.admit(), silent)
        await eventually(lambda: asked.asked and not checks())
        assert not breaker.transitions

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [1, 5])
    async def test_costs_its_users_time_and_no_more(self, make_database: MakeDatabase, size: int) -> None:
        """A loop that is blocked, for longer than anything may take, while everything is under way."""
        database = await make_database(
            pool_min_size=1,
            pool_max_size=size,
            pool_acquire_timeout=0.3,
            pool_connect_timeout=0.3,
            pool_validate_after=0.05,
            breaker_fail_max=1,
        )
        async with Users(database, 20).asking() as users:
            for _ in range(6):
                await users.are_served()
                await database.primary.expire_connections()  # some are opened meanwhile
                await asyncio.sleep(0)
                Stopping(1).stop()
            await users.are_served()
        await asked(database)
        assert not database.breaker.transitions

    async def test_is_told_from_a_database_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lifeguard.database.breaker.PROBE_PATIENCE", 0.3)

        async def answer() -> None:
            Stopping(0.4).stop()
            await asyncio.Event().wait()

        breaker = breaker_of(answer)
        breaker.suspect()
        await eventually(lambda: breaker.state is BreakerState.OPEN)
        await breaker.stop()


def breaker_of(answer: Callable[[], Awaitable[object]]) -> Breaker:
    return Breaker(
        "primary", fail_max=1, reset_timeout=30, probe=answer, ask_aside=answer, on_open=lambda: None
    )


async def are_asleep(server: PostgresServer, number: int) -> bool:
    return len([row for row in await server.backends() if row["wait_event"] == "PgSleep"]) >= number
