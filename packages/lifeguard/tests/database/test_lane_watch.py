"""A lane that holds most of a pool: who it is, what its sessions wait for, and who is in the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from lifeguard.database import BreakerState, Database, LaneReport, Sessions, lane_watch
from lifeguard.database.lane_watch import LOCK
from lifeguard.pool import PoolStats
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import Log, MakeDatabase

LANE = "GET /accounts"
SIZE = 4


@pytest.fixture(autouse=True)
def _sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in a service."""
    for name, seconds in (("INTERVAL", 0.02), ("LONG", 0.05), ("ASKED_AGAIN_AFTER", 0.05)):
        monkeypatch.setattr(lane_watch, name, seconds)


@pytest.fixture
async def small(make_database: MakeDatabase) -> Database:
    database = await make_database(pool_max_size=SIZE, lock_timeout=9)
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL)")
        await connection.execute("INSERT INTO accounts VALUES (1, 0)")
    return database


@asynccontextmanager
async def holding(database: Database, *statements: str, holders: int = SIZE - 1) -> AsyncIterator[None]:
    """So many of one lane who borrow a connection, run the statements, and keep it."""

    async def hold() -> None:
        async with database.primary.acquire(lane=LANE) as lease:
            for statement in statements:
                await lease.execute(statement)
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hold()) for _ in range(holders)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


def report_of(database: Database) -> LaneReport | None:
    return database.guards[0].lane_watch.report


def named(log: Log, event: str) -> list[dict[str, Any]]:
    return [dict(line) for line in log if line["event"] == event]


async def summary_of(database: Database, expected: str) -> None:
    """Wait until that is what is said."""

    async def says() -> bool:
        report = report_of(database)
        assert report is not None
        assert report.summary(tables=True) == expected
        return True

    await eventually(says)


async def test_the_log_says_who_has_the_lock_that_a_lane_waits_for(
    small: Database, database_url: str, log: Log
) -> None:
    outsider = await asyncpg.connect(database_url, server_settings={"application_name": "psql"})
    blocking = outsider.transaction()
    await blocking.start()
    await outsider.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
    async with holding(small, "SELECT FROM accounts"):
        (line,) = await eventually(lambda: named(log, "lane_hangs"))
        await blocking.rollback()
    said = f"lane {LANE} holds 3 of 4 connections, all waiting for a lock on accounts"
    assert (line["lane"], line["holds"], line["max_size"], line["report"]) == (LANE, 3, SIZE, said)
    (blocker,) = line["blocked_by"]
    assert blocker.startswith(f"process {outsider.get_server_pid()} (psql, user ")
    assert "idle in transaction, transaction of " in blocker
    await outsider.close()
    (line,) = await eventually(lambda: named(log, "lane_goes_on"))
    assert line["lane"] == LANE
    assert report_of(small) is None


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ([], "all idle: their holders do something else"),
        (["BEGIN"], "all idle in a transaction"),
        (["SELECT pg_sleep(60)"], "all in a statement"),
        (
            ["BEGIN", "UPDATE accounts SET n = n + 1"],
            f"2 {LOCK} on accounts, 1 idle in a transaction",
        ),
    ],
    ids=["elsewhere", "transaction", "statement", "row"],
)
async def test_a_report_says_what_the_sessions_do(small: Database, statements: list[str], said: str) -> None:
    async with holding(small, *statements):
        await summary_of(small, f"lane {LANE} holds 3 of 4 connections, {said}")


async def test_half_of_a_pool_is_not_most_of_it(small: Database) -> None:
    async with holding(small, holders=SIZE // 2):
        await eventually(
            lambda: [lease.held_for > lane_watch.LONG for lease in small.primary.leases()] == [True] * 2
        )
        await small.guards[0].lane_watch.look()
        assert report_of(small) is None


async def test_a_lane_whose_breaker_is_open_is_told_however_little_it_holds(
    small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = small.primary.stats

    def with_open_breakers() -> PoolStats:
        now = stats()
        return replace(now, lanes=tuple(replace(lane, breaker="open") for lane in now.lanes))

    monkeypatch.setattr(small.primary, "stats", with_open_breakers)
    async with holding(small, "SELECT pg_sleep(60)", holders=1):
        said = f"lane {LANE} holds 1 of 4 connections, in a statement; its breaker is open"
        await summary_of(small, said)


async def test_the_server_is_not_asked_while_it_is_away(
    small: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = small.guards[0].lane_watch
    async with holding(small):
        await eventually(lambda: report_of(small))
        monkeypatch.setattr(small.breaker, "state", BreakerState.OPEN)
        monkeypatch.setattr(lane_watch, "ASKED_AGAIN_AFTER", 0)
        await watch.stop()
        asked: list[str] = []
        monkeypatch.setattr(small.primary, "connect_aside", lambda: asked.append("asked"))
        await watch.look()
        assert asked == []
        assert report_of(small)


async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_that(
    small: Database, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(lane_watch, "PATIENCE", 0.05)
    monkeypatch.setattr(small.primary, "connect_aside", asyncio.Event().wait)
    async with holding(small):
        assert await eventually(lambda: named(log, "lane_not_asked"))
        (line,) = await eventually(lambda: named(log, "lane_hangs"))
    assert line["report"] == f"lane {LANE} holds 3 of 4 connections"


async def test_a_lane_that_goes_on_is_told_once_and_asked_about_now_and_then(
    small: Database, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(lane_watch, "ASKED_AGAIN_AFTER", 60)
    connect = small.primary.connect_aside
    asked: list[str] = []

    async def counted() -> asyncpg.Connection:
        asked.append("asked")
        return await connect()

    monkeypatch.setattr(small.primary, "connect_aside", counted)
    async with holding(small):
        assert await eventually(lambda: named(log, "lane_hangs"))
        for _ in range(3):
            await small.guards[0].lane_watch.look()
    assert asked == ["asked"]
    assert len(named(log, "lane_hangs")) == 1


def test_tables_are_named_only_to_those_who_may_see_them() -> None:
    report = LaneReport(LANE, 15, 20, 3, 2.5, "closed", Sessions({LOCK: 12, "in a statement": 3}, ("a", "b")))
    said = f"lane {LANE} holds 15 of 20 connections"
    assert report.summary(tables=True) == f"{said}, 12 waiting for a lock on a, b, 3 in a statement"
    assert report.summary(tables=False) == f"{said}, 12 waiting for a lock, 3 in a statement"
