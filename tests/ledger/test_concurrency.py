"""The ledger while everybody moves money at once: the sums, the limits and the acknowledgements."""

import asyncio
from collections import Counter
from functools import partial
from itertools import chain, repeat
from random import Random
from typing import Any

import httpx
import pytest
from lifeguard.database import Database, DatabaseUnavailable

from app.ledger import service
from app.ledger.schemas import NewTransfer
from tests.ledger.conftest import balance, open_account

SEEDS = (1, 2, 3)
# Seconds, at most, that a client waits for an answer: too short for most. Then it waits until one comes.
PATIENCE = [0.01 * 2**n for n in range(8)]


async def assert_books_balance(database: Database) -> None:
    """What must be true of any ledger at any moment."""
    async with database.transaction(isolation="repeatable_read", read_only=True) as books:
        per_currency = await books.fetch(
            "SELECT currency, sum(amount) FROM entries JOIN accounts ON accounts.id = account_id"
            " GROUP BY currency"
        )
        wrong_balances = await books.fetch(
            "SELECT id FROM accounts LEFT JOIN"
            " (SELECT account_id, sum(amount) AS total FROM entries GROUP BY account_id) AS sums"
            " ON account_id = id WHERE NOT is_funding AND balance <> coalesce(total, 0)"
        )
        lopsided = await books.fetch(
            "SELECT transfers.id FROM transfers LEFT JOIN entries ON transfer_id = transfers.id"
            " GROUP BY transfers.id HAVING count(*) <> 2 OR sum(entries.amount) <> 0"
        )
        lowest = await books.fetchval("SELECT min(balance) FROM accounts")
    assert {row["currency"]: row["sum"] for row in per_currency} == {
        row["currency"]: 0 for row in per_currency
    }
    assert (wrong_balances, lopsided) == ([], [])
    assert lowest is None or lowest >= 0


async def post(client: httpx.AsyncClient, body: dict[str, Any], key: str) -> httpx.Response:
    return await client.post("/v1/transfers", json=body, headers={"Idempotency-Key": key})


@pytest.mark.parametrize("seed", SEEDS)
async def test_transfers_in_all_directions_keep_the_books(
    client: httpx.AsyncClient, database: Database, seed: int
) -> None:
    chance = Random(seed)
    accounts = [await open_account(client, 50) for _ in range(4)]
    answers: Counter[int] = Counter()

    async def customer(n: int) -> None:
        for i in range(25):
            source, target = chance.sample(accounts, 2)
            body = {"from_account": source, "to_account": target, "amount": chance.randint(1, 40)}
            answers[(await post(client, body, f"{n}-{i}")).status_code] += 1

    await asyncio.gather(*(customer(n) for n in range(12)))
    assert answers.keys() <= {201, 409}  # 409: not enough money
    assert answers[201] > 50
    await assert_books_balance(database)
    assert sum([await balance(client, account) for account in accounts]) == 200
    async with database.connection() as connection:
        made = await connection.fetchval("SELECT count(*) FROM transfers WHERE idempotency_key IS NOT NULL")
    assert made == answers[201]


async def test_opposite_transfers_do_not_deadlock(client: httpx.AsyncClient, database: Database) -> None:
    one, other = await open_account(client, 1000), await open_account(client, 1000)
    bodies = [
        {"from_account": source, "to_account": target, "amount": 1}
        for source, target in ((one, other), (other, one)) * 50
    ]
    answers = await asyncio.gather(*(post(client, body, str(n)) for n, body in enumerate(bodies)))
    assert [answer.status_code for answer in answers] == [201] * 100
    assert [await balance(client, one), await balance(client, other)] == [1000, 1000]
    async with database.connection() as connection:
        deadlocks = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
    assert deadlocks == 0


async def test_one_account_is_not_spent_twice(client: httpx.AsyncClient, database: Database) -> None:
    source = await open_account(client, 10)
    targets = [await open_account(client) for _ in range(5)]
    bodies = [{"from_account": source, "to_account": target, "amount": 4} for target in targets]
    answers = await asyncio.gather(*(post(client, body, str(n)) for n, body in enumerate(bodies)))
    assert Counter(answer.status_code for answer in answers) == {201: 2, 409: 3}
    assert await balance(client, source) == 2
    await assert_books_balance(database)


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_is_retried_under_its_key_happens_exactly_once(
    client: httpx.AsyncClient, database: Database, seed: int
) -> None:
    """Clients give up at random instants and try again until they are answered."""
    chance = Random(seed)
    accounts = [await open_account(client, 10_000) for _ in range(3)]
    sent: dict[int, int] = Counter()

    async def customer(n: int) -> None:
        source, target = chance.sample(accounts, 2)
        body = {"from_account": source, "to_account": target, "amount": n + 1}
        for patience in chain(PATIENCE, repeat(None)):
            request = asyncio.create_task(post(client, body, f"key-{n}"))
            await asyncio.wait({request}, timeout=patience and chance.uniform(0, patience))
            request.cancel()
            await asyncio.wait({request})
            if request.cancelled():
                continue
            if request.result().status_code == 201:
                sent[source] -= n + 1
                sent[target] += n + 1
                return
            # The service has yet to end what the client gave up.
            assert request.result().json()["type"].endswith("idempotency-in-progress"), request.result().text

    await asyncio.gather(*(customer(n) for n in range(40)))
    await assert_books_balance(database)
    for account in accounts:
        assert await balance(client, account) == 10_000 + sent[account]
    stats = database.primary.stats()
    assert (stats.used, stats.waiting) == (0, 0)


async def test_first_accounts_of_a_currency_are_opened_at_once_without_conflict(
    client: httpx.AsyncClient, database: Database
) -> None:
    await asyncio.gather(*(open_account(client, 10, currency="JPY") for _ in range(20)))
    async with database.connection() as connection:
        funding = await connection.fetchval("SELECT count(*) FROM accounts WHERE is_funding")
    assert funding == 1
    await assert_books_balance(database)


async def test_a_killed_session_in_mid_transfer_moves_nothing(
    client: httpx.AsyncClient, database: Database
) -> None:
    one, other = await open_account(client, 100), await open_account(client)
    new = NewTransfer(from_account=one, to_account=other, amount=5)

    async def transfer_and_die() -> None:
        async with database.transaction() as transaction:
            await service.book_transfer(transaction, new, key="k1")
            await transaction.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(DatabaseUnavailable):
        await transfer_and_die()
    assert await balance(client, one) == 100
    booking = await database.run_in_transaction(partial(service.book_transfer, new=new, key="k1"))
    assert not booking.replayed
    await assert_books_balance(database)
