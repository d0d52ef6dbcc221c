"""The fixtures that a service's owner gets for ten lines of conftest.py."""

import asyncio
from time import monotonic

import httpx
import pytest
from lifeguard.database import Database
from lifeguard.pool import lane_breaker
from lifeguard.pool.lanes import TICK
from lifeguard.testing.databases import Databases
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.service import RunningService
from lifeguard.testing.service_fixtures import Fault

from packages.lifeguard.tests.testing.orders import Settings


def problem_of(answer: httpx.Response) -> str:
    kind: str = answer.json()["type"]
    return kind.removeprefix("/problems/")


@pytest.mark.parametrize("turn", ["first", "second"])
async def test_each_test_has_a_migrated_database_of_its_own(
    client: httpx.AsyncClient, database: Database, turn: str
) -> None:
    answer = await client.post("/orders", params={"item": turn})
    assert answer.status_code == 201
    assert (await client.get("/orders")).json() == [turn]
    assert await database.fetchval("SELECT count(*) FROM orders") == 1


@pytest.mark.settings(greeting="of the class", pool_max_size=3)
class TestSettings:
    @pytest.mark.settings(greeting="of the test")
    def test_are_those_of_the_nearest_mark(self, service_settings: Settings) -> None:
        assert (service_settings.greeting, service_settings.pool_max_size) == ("of the test", 3)

    async def test_are_what_the_service_runs_with(self, service: RunningService) -> None:
        assert service.database.primary.get_max_size() == 3


@pytest.mark.settings(pool_max_waiting=50)
class TestSaturated:
    async def test_turns_requests_away_until_it_ends(
        self, client: httpx.AsyncClient, saturated: Fault
    ) -> None:
        async with saturated():
            assert problem_of(await client.get("/orders")) == "pool-saturated"
        assert (await client.get("/orders")).status_code == 200

    async def test_lasts_longer_than_the_patience_of_a_lanes_breaker(
        self, client: httpx.AsyncClient, saturated: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane_breaker, "PATIENCE", 0.0)
        async with saturated():
            end = monotonic() + 4 * TICK
            while monotonic() < end:
                assert problem_of(await client.get("/orders")) == "pool-saturated"

    async def test_lets_a_request_wait_in_vain_where_nobody_waits(
        self, client: httpx.AsyncClient, database: Database, saturated: Fault
    ) -> None:
        async with saturated(waiting=0):
            assert database.primary.stats().waiting == 0
            answer = await client.get("/orders", headers={"X-Request-Timeout": "0.5"})
            assert problem_of(answer) == "pool-timeout"


class TestDatabaseDown:
    async def test_is_known_from_its_first_request_to_its_last(
        self, client: httpx.AsyncClient, database_down: Fault
    ) -> None:
        assert (await client.post("/orders", params={"item": "before"})).status_code == 201
        async with database_down():
            assert problem_of(await client.get("/orders")) == "database-unavailable"
            assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/orders")).json() == ["before"]


class TestSlowDatabase:
    async def test_takes_longer_than_its_client_waits(
        self, client: httpx.AsyncClient, slow_database: Fault
    ) -> None:
        hasty = {"X-Request-Timeout": "0.1"}
        async with slow_database(0.3):
            assert (await client.get("/orders", headers=hasty)).status_code in {503, 504}
        assert (await client.get("/orders")).status_code == 200


class TestDraining:
    async def test_says_so_and_finishes_what_comes(self, client: httpx.AsyncClient, draining: Fault) -> None:
        async with draining():
            assert (await client.get("/readyz")).status_code == 503
            answer = await client.get("/orders")
            assert (answer.status_code, answer.headers["Connection"]) == (200, "close")


class TestDatabases:
    async def test_come_from_one_session_that_outlives_its_server(
        self, databases: Databases, postgres: PostgresServer
    ) -> None:
        async def session() -> int:
            async with postgres.connect() as admin:
                pid: int = await admin.fetchval(
                    "SELECT pid FROM pg_stat_activity"
                    " WHERE query LIKE '%DATABASE%' AND pid <> pg_backend_pid()"
                )
            return pid

        def make_and_drop() -> None:
            databases.drop(databases.create())

        await asyncio.to_thread(make_and_drop)
        first = await session()
        await asyncio.to_thread(make_and_drop)
        assert await session() == first
        await postgres.restart()
        await asyncio.to_thread(make_and_drop)
        assert await session() != first
