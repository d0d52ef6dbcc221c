"""Whose fault it is: what the breakers count, and which of them, before real servers."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from lifeguard.database import (
    BreakerState,
    Connection,
    Database,
    DatabaseUnavailable,
    SchemaChanged,
    Transaction,
)
from lifeguard.pool import Pool
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, checks, kill_at_work

# One of each class that a statement may raise, and all that sound as if the server were going away.
RAISED = (
    "08000 08001 08003 08006 08P01 0A000 21000 22012 22P02 23505 25001 25006 25P01 25P03 25P04 26000 28000"
    " 28P01 2D000 34000 38000 39000 3D000 40001 40P01 42501 42601 42704 42P01 53000 53100 53200 53300 54000"
    " 55000 55P03 57000 57014 57P01 57P02 57P03 57P04 57P05 58000 58030 F0000 HV000 P0001 XX000 XX001"
)

Ending = Callable[[PostgresServer, Connection], Awaitable[object]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pools beside which a breaker has asked its database: it had reason to doubt it."""
    names: list[str] = []
    ask_aside = Pool.ask_aside

    async def asking(self: Pool) -> None:
        names.append(self.name)
        await ask_aside(self)

    monkeypatch.setattr(Pool, "ask_aside", asking)
    return names


@pytest.fixture
async def fragile(asked: list[str], make_database: MakeDatabase) -> Database:
    """The first failure that is charged has its breaker ask the database, and open if that is gone."""
    return await make_database(breaker_fail_max=1)


def charged(database: Database) -> list[str]:
    return [guard.breaker.name for guard in database.guards if guard.breaker.state is not BreakerState.CLOSED]


async def answered() -> None:
    """Let the breakers begin to ask, and wait until they have their answers."""
    await asyncio.sleep(0)
    await eventually(lambda: not checks())


async def test_what_a_living_session_says_is_charged_to_nobody(fragile: Database) -> None:
    """A statement may fail with any code: a foreign server's, say, through a foreign table."""
    for code in RAISED.split():
        with pytest.raises((asyncpg.PostgresError, SchemaChanged)) as caught:
            async with fragile.connection() as connection:
                await connection.execute(f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$")
        assert code in {getattr(error, "sqlstate", None) for error in (caught.value, caught.value.__cause__)}
        assert charged(fragile) == [], code


async def kill_between_statements(server: PostgresServer, connection: Connection) -> None:
    await connection.execute("BEGIN")
    await server.kill(await connection.fetchval("SELECT pg_backend_pid()"))
    await connection.fetchval("SELECT 1")


async def idle_in_transaction(_: PostgresServer, connection: Connection) -> None:
    await connection.execute("BEGIN; SET LOCAL idle_in_transaction_session_timeout = '1ms'")
    await eventually(connection.is_closed)
    await connection.fetchval("SELECT 1")


async def idle_outside_of_one(_: PostgresServer, connection: Connection) -> None:
    await connection.execute("SET idle_session_timeout = '1ms'")
    await eventually(connection.is_closed)
    await connection.fetchval("SELECT 1")


async def overlong_transaction(_: PostgresServer, connection: Connection) -> None:
    await connection.execute("BEGIN; SET LOCAL transaction_timeout = '20ms'; SELECT pg_sleep(30)")


@pytest.mark.parametrize(
    ("ending", "counts"),
    [
        (kill_at_work, True),
        (kill_between_statements, False),
        (idle_in_transaction, False),
        (idle_outside_of_one, False),
        (overlong_transaction, False),
    ],
)
async def test_a_session_that_ends_under_the_work_is_charged_if_its_borrower_did_not_overstay(
    fragile: Database, postgres: PostgresServer, asked: list[str], ending: Ending, counts: bool
) -> None:
    with pytest.raises(DatabaseUnavailable):
        async with fragile.connection() as connection:
            await ending(postgres, connection)
    await answered()
    assert asked == (["primary"] if counts else [])
    assert charged(fragile) == []


@pytest.mark.parametrize("inner", ["primary", "replica"])
async def test_a_lost_session_is_charged_to_its_own_breaker_only(
    make_database: MakeDatabase, database_url: str, postgres: PostgresServer, asked: list[str], inner: str
) -> None:
    database = await make_database(
        database_replica_url=database_url, breaker_fail_max=1, pool_outage_patience=0
    )
    await eventually(lambda: database.guards[1].serves)
    with pytest.raises(DatabaseUnavailable):
        async with database.read() as outer, database.connection() as connection:
            await kill_at_work(postgres, connection if inner == "primary" else outer)
    await answered()
    assert asked == [inner]
    assert charged(database) == []


async def test_a_transaction_that_overstays_is_not_repeated(fragile: Database) -> None:
    calls = 0

    async def work(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        await transaction.execute("SET LOCAL transaction_timeout = '20ms'; SELECT pg_sleep(30)")

    with pytest.raises(DatabaseUnavailable):
        await fragile.run_in_transaction(work)
    assert calls == 1
