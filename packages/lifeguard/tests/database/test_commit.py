"""What is known of a transaction when the answer to its COMMIT is late, lost or not awaited."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from lifeguard.database import CommitUnknown, Database, DatabaseUnavailable, Transaction, call_scope
from lifeguard.testing.commits import CommitProxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.database.conftest import MakeDatabase, within
from packages.lifeguard.tests.stopwatch import Stopwatch


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[CommitProxy]:
    proxy = CommitProxy(database_url)
    async with proxy.serve():
        yield proxy


@pytest.fixture
async def distant(make_database: MakeDatabase, proxy: CommitProxy, table: str) -> Database:
    """The database as seen through the proxy."""
    return await make_database(proxy.dsn)


async def insert(database: Database) -> None:
    async with database.transaction() as transaction:
        await transaction.execute("INSERT INTO things VALUES (2, 0)")


async def committing(
    proxy: CommitProxy, database: Database, *, seconds: float | None = None
) -> asyncio.Task[None]:
    """A task whose COMMIT is under way. Within `seconds` of its own, which may be over before that on a busy
    machine: then once more."""

    async def insert_in_time() -> None:
        call_scope.set(None if seconds is None else within(seconds))
        await insert(database)

    while True:
        inserting = asyncio.create_task(insert_in_time())
        reached = asyncio.create_task(proxy.reached.wait())
        await asyncio.wait([inserting, reached], return_when=asyncio.FIRST_COMPLETED)
        if reached.done():
            return inserting
        reached.cancel()
        await asyncio.gather(inserting, reached, return_exceptions=True)


async def ids(database: Database) -> list[int]:
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT id FROM things ORDER BY id")
        return [row["id"] for row in rows]


async def test_a_commit_whose_answer_is_lost_is_unknown_although_it_happened(
    distant: Database, database: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "cut"
    with pytest.raises(CommitUnknown) as caught:
        await insert(distant)
    assert isinstance(caught.value.__cause__, Exception)
    assert await ids(database) == [1, 2]


async def test_a_commit_that_never_arrives_is_unknown_although_it_did_not_happen(
    distant: Database, database: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "drop"
    with pytest.raises(CommitUnknown):
        await insert(distant)
    assert await ids(database) == [1]


async def test_an_unknown_commit_is_not_repeated(
    distant: Database, database: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "drop"
    calls = 0

    async def work(transaction: object) -> None:
        nonlocal calls
        calls += 1

    with pytest.raises(CommitUnknown):
        await distant.run_in_transaction(work)
    assert calls == 1


async def test_the_pool_heals_after_an_unknown_commit(distant: Database, proxy: CommitProxy) -> None:
    proxy.at_commit = "cut"
    with pytest.raises(CommitUnknown):
        await insert(distant)
    proxy.at_commit = "pass"
    assert await ids(distant) == [1, 2]
    stats = distant.primary.stats()
    assert (stats.used, stats.waiting) == (0, 0)


async def test_a_commit_that_is_not_answered_in_time_is_unknown(
    make_database: MakeDatabase, database: Database, table: str, proxy: CommitProxy
) -> None:
    distant = await make_database(proxy.dsn, command_timeout=0.6, statement_timeout=0.5, lock_timeout=0.5)
    proxy.at_commit = "hold"
    inserting = await committing(proxy, distant)
    with pytest.raises(CommitUnknown):
        await inserting
    assert await ids(database) == [1, 2]


async def test_the_deadline_bounds_the_wait_for_the_answer(
    distant: Database, database: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "hold"
    inserting = await committing(proxy, distant, seconds=0.2)
    async with Stopwatch() as watch:
        with pytest.raises(CommitUnknown):
            await inserting
    assert watch.seconds < 0.45  # the deadline and 250 ms
    assert await ids(database) == [1, 2]


@pytest.mark.parametrize("end", ["deadline", "task cancelled"])
async def test_no_cancel_request_is_sent_for_a_commit(
    distant: Database, proxy: CommitProxy, end: str
) -> None:
    """It would end the server's wait for a synchronous standby."""
    proxy.at_commit = "hold"
    inserting = await committing(proxy, distant, seconds=0.2 if end == "deadline" else None)
    sent_before = proxy.cancel_requests  # of one that was too late to commit
    if end == "task cancelled":  # as at the end of the event loop
        (commit,) = (task for task in asyncio.all_tasks() if task.get_name() == "commit")
        commit.cancel()
    (error,) = await asyncio.gather(inserting, return_exceptions=True)
    assert isinstance(error, CommitUnknown | asyncio.CancelledError)
    proxy.at_commit = "pass"
    assert await ids(distant) == [1, 2]
    assert proxy.cancel_requests == sent_before


async def test_a_commit_that_was_never_sent_is_no_unknown_one(
    database: Database, table: str, postgres: PostgresServer
) -> None:
    """The session ends, and the event loop has not read of it when the block ends."""
    calls = 0

    async def work(transaction: Transaction) -> None:
        nonlocal calls
        calls += 1
        await transaction.execute(f"INSERT INTO {table} VALUES (2, 0)")
        pid = await transaction.fetchval("SELECT pg_backend_pid()")
        if calls == 1:
            killing = threading.Thread(target=asyncio.run, args=[postgres.kill(pid)])
            killing.start()
            killing.join()

    with pytest.raises(DatabaseUnavailable):
        async with database.transaction() as transaction:
            await work(transaction)
    assert await ids(database) == [1]
    calls = 0
    await database.run_in_transaction(work)
    assert (calls, await ids(database)) == (2, [1, 2])


async def test_a_cancel_during_commit_waits_for_the_answer_and_then_takes_effect(
    distant: Database, database: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "hold"
    task = asyncio.create_task(insert(distant))
    await proxy.reached.wait()
    task.cancel()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done
    proxy.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ids(database) == [1, 2]
    assert distant.primary.stats().opened == 1  # its connection is as good as before


async def test_a_timeout_around_the_transaction_still_times_out(
    distant: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "hold"
    in_a_hurry = asyncio.Event()

    async def insert_in_a_hurry() -> None:
        async with asyncio.timeout(None) as timeout:
            asyncio.get_running_loop().create_task(hurry(timeout))
            await insert(distant)

    async def hurry(timeout: asyncio.Timeout) -> None:
        await proxy.reached.wait()
        timeout.reschedule(asyncio.get_running_loop().time())
        in_a_hurry.set()

    task = asyncio.create_task(insert_in_a_hurry())
    await in_a_hurry.wait()
    await asyncio.wait({task}, timeout=0.05)
    assert not task.done()
    proxy.let_go.set()
    with pytest.raises(TimeoutError):
        await task


async def test_a_cancel_does_not_hide_that_the_outcome_is_unknown(
    make_database: MakeDatabase, table: str, proxy: CommitProxy
) -> None:
    distant = await make_database(proxy.dsn, command_timeout=0.6, statement_timeout=0.5, lock_timeout=0.5)
    proxy.at_commit = "hold"
    task = await committing(proxy, distant)
    task.cancel()
    with pytest.raises(CommitUnknown):
        await task


async def test_reading_is_never_of_unknown_outcome(distant: Database, proxy: CommitProxy) -> None:
    proxy.at_commit = "drop"

    async def read() -> None:
        async with distant.transaction(read_only=True) as transaction:
            await transaction.fetchval("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await read()


async def test_no_lock_is_left_when_a_commit_never_arrives(
    distant: Database, database: Database, proxy: CommitProxy
) -> None:
    proxy.at_commit = "drop"
    with pytest.raises(CommitUnknown):
        await insert(distant)

    async def nobody_holds_the_row() -> bool:
        async with database.transaction() as transaction:
            return bool(
                await transaction.fetchval(
                    "SELECT count(*) = 0 FROM pg_locks WHERE relation = 'things'::regclass"
                )
            )

    await eventually(nobody_holds_the_row)
