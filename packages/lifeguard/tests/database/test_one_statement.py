"""Statements without a block around them: on the right pool, behind its breaker, within the deadline."""

import pytest
from lifeguard.database import Database, call_scope
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, within


async def test_each_goes_to_the_pool_it_is_meant_for(
    make_database: MakeDatabase, database_url: str, postgres: PostgresServer
) -> None:
    replica = await postgres.create_database()
    database = await make_database(database_replica_url=postgres.dsn(replica))
    await eventually(lambda: database.guards[1].serves)
    query = "SELECT current_database()"
    primary = database_url.rpartition("/")[2]
    assert await database.execute("CREATE TABLE written (n int)") == "CREATE TABLE"
    assert await database.fetchval("INSERT INTO written VALUES (1) RETURNING n") == 1
    for read, name in ((False, primary), (True, replica)):
        assert await database.fetchval(query, read=read) == name
        row = await database.fetchrow(query, read=read)
        assert row is not None
        assert [tuple(row)] == [tuple(row) for row in await database.fetch(query, read=read)] == [(name,)]


@pytest.mark.parametrize("tagged", [True, False])
async def test_the_tag_reaches_the_server_if_it_is_wanted_and_nobody_else_sees_it(
    make_database: MakeDatabase, tagged: bool
) -> None:
    database = await make_database(pool_max_size=1, tag_statements=tagged)
    query = "SELECT current_setting('application_name')"
    call_scope.set(within(5, "it's"))
    seen = [await database.fetchval(query, read=read) for read in (True, False)]
    assert seen == ["ledger:it's" if tagged else "ledger"] * 2
    call_scope.set(None)
    assert await database.fetchval(query) == "ledger"


async def test_the_deadline_ends_them(database: Database) -> None:
    call_scope.set(within(0.1))
    with pytest.raises(TimeoutError):
        await database.fetchval("SELECT pg_sleep(30)")
