"""Transfers over HTTP: what moves, what is refused, what a repeated request does."""

import asyncio
from typing import Any

import httpx
import pytest
from lifeguard.database import Database

from app.ledger.service import lock_number
from tests.ledger.conftest import balance, open_account

KEY = "Idempotency-Key"
Pair = tuple[int, int]


@pytest.fixture
async def pair(client: httpx.AsyncClient) -> Pair:
    """Two accounts, 100 on the first."""
    return await open_account(client, 100), await open_account(client)


def transfer(pair: Pair, amount: int = 30, memo: str = "rent") -> dict[str, Any]:
    return {"from_account": pair[0], "to_account": pair[1], "amount": amount, "memo": memo}


async def balances(client: httpx.AsyncClient, pair: Pair) -> list[int]:
    return [await balance(client, account) for account in pair]


async def post(client: httpx.AsyncClient, body: dict[str, Any], key: str = "") -> httpx.Response:
    return await client.post("/v1/transfers", json=body, headers={KEY: key} if key else {})


async def test_a_head_is_not_what_only_post_takes(client: httpx.AsyncClient) -> None:
    answer = await client.head("/v1/transfers")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_money_moves(client: httpx.AsyncClient, pair: Pair) -> None:
    answer = await post(client, transfer(pair))
    assert answer.status_code == 201
    assert answer.json() | transfer(pair) | {"currency": "EUR"} == answer.json()
    assert await balances(client, pair) == [70, 30]
    found = await client.get(f"/v1/transfers/{answer.json()['id']}")
    assert found.json() == answer.json()


async def test_a_transfer_leaves_two_entries_that_sum_to_zero(client: httpx.AsyncClient, pair: Pair) -> None:
    booked = (await post(client, transfer(pair))).json()
    amounts = []
    for account in pair:
        entry = (await client.get(f"/v1/accounts/{account}/entries")).json()["items"][0]
        assert (entry["transfer_id"], entry["account_id"]) == (booked["id"], account)
        amounts.append(entry["amount"])
    assert amounts == [-30, 30]


async def test_everything_can_be_spent_and_no_more(client: httpx.AsyncClient, pair: Pair) -> None:
    assert (await post(client, transfer(pair, 100))).status_code == 201
    answer = await post(client, transfer(pair, 1))
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/insufficient-funds"
    assert await balances(client, pair) == [0, 100]


async def test_currencies_do_not_mix(client: httpx.AsyncClient, pair: Pair) -> None:
    dollars = await open_account(client, 50, currency="USD")
    answer = await post(client, transfer((pair[0], dollars)))
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/currency-mismatch"


async def test_no_account_holds_more_than_a_json_number_can_say(client: httpx.AsyncClient) -> None:
    full, other = await open_account(client, 2**53 - 1), await open_account(client, 2**53 - 1)
    answer = await post(client, transfer((other, full), 1))
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/validation"


async def test_unknown_accounts_are_not_found(client: httpx.AsyncClient, pair: Pair) -> None:
    for unknown in ((pair[0], 2**63 - 1), (2**63 - 1, pair[1])):
        answer = await post(client, transfer(unknown))
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"


async def test_an_unknown_transfer_is_not_found(empty_ledger: httpx.AsyncClient) -> None:
    assert (await empty_ledger.get("/v1/transfers/1")).status_code == 404


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("amount", 0),
        ("amount", -5),
        ("amount", 2**53),
        ("amount", 2.5),
        ("amount", "5"),
        ("amount", True),
        ("from_account", 2),  # the other one
        ("from_account", 0),
        ("from_account", 2**63),
        ("from_account", "1"),
        ("to_account", None),
        ("memo", "x" * 501),
        ("memo", "\x00"),
        ("memo", None),
        ("currency", "EUR"),
    ],
)
async def test_what_is_no_transfer_is_refused(
    empty_ledger: httpx.AsyncClient, field: str, value: object
) -> None:
    answer = await post(empty_ledger, {**transfer((1, 2)), field: value})
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/validation"


@pytest.mark.parametrize("key", [" ", "a b", "ü", "x" * 256])
async def test_what_cannot_be_a_key_is_refused(empty_ledger: httpx.AsyncClient, key: str) -> None:
    headers = {KEY.encode(): key.encode()}
    answer = await empty_ledger.post("/v1/transfers", json=transfer((1, 2)), headers=headers)
    assert answer.status_code == 422


async def test_a_repeated_request_gets_the_first_answer_and_moves_nothing(
    client: httpx.AsyncClient, pair: Pair
) -> None:
    first = await post(client, transfer(pair), "k1")
    again = await post(client, transfer(pair), "k1")
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.json()) == (201, first.json())
    assert await balances(client, pair) == [70, 30]


async def test_a_repeated_request_succeeds_although_the_money_has_gone_since(
    client: httpx.AsyncClient, pair: Pair
) -> None:
    first = await post(client, transfer(pair, 100), "k1")
    again = await post(client, transfer(pair, 100), "k1")
    assert again.json() == first.json()


async def test_different_keys_are_different_transfers(client: httpx.AsyncClient, pair: Pair) -> None:
    for key in ("k1", "k2"):
        assert (await post(client, transfer(pair), key)).status_code == 201
    assert await balances(client, pair) == [40, 60]


@pytest.mark.parametrize("change", [{"amount": 31}, {"memo": "Rent"}, {"memo": ""}])
async def test_a_key_belongs_to_one_request(
    client: httpx.AsyncClient, pair: Pair, change: dict[str, Any]
) -> None:
    await post(client, transfer(pair), "k1")
    answer = await post(client, {**transfer(pair), **change}, "k1")
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/idempotency-mismatch"
    assert await balances(client, pair) == [70, 30]


async def test_a_key_does_not_work_the_other_way_round(client: httpx.AsyncClient, pair: Pair) -> None:
    await post(client, transfer(pair), "k1")
    assert (await post(client, transfer(pair[::-1]), "k1")).status_code == 422


async def test_a_refusal_is_not_remembered_under_its_key(client: httpx.AsyncClient, pair: Pair) -> None:
    back = pair[::-1]
    assert (await post(client, transfer(back), "k1")).status_code == 409
    await post(client, transfer(pair))
    assert (await post(client, transfer(back), "k1")).status_code == 201
    assert await balances(client, pair) == [100, 0]


async def test_a_key_whose_first_request_is_under_way_is_refused_at_once(
    client: httpx.AsyncClient, database: Database, pair: Pair
) -> None:
    async with database.transaction() as elsewhere:
        await elsewhere.execute(f"SELECT pg_advisory_xact_lock({lock_number('k1')})")
        answer = await post(client, transfer(pair), "k1")
        assert answer.status_code == 409
        assert answer.json()["type"] == "/problems/idempotency-in-progress"
    assert (await post(client, transfer(pair), "k1")).status_code == 201


async def test_a_first_request_that_commits_under_our_eyes_is_not_repeated(
    client: httpx.AsyncClient, database: Database, pair: Pair
) -> None:
    """It had its key when we looked, has committed since, and so its lock was free for us."""
    async with database.transaction() as first:
        await first.execute(
            "INSERT INTO transfers (from_account, to_account, amount, currency, memo, idempotency_key)"
            " VALUES ($1, $2, 30, 'EUR', 'rent', 'k1')",
            *pair,
        )
        second = asyncio.create_task(post(client, transfer(pair), "k1"))
        await asyncio.wait({second}, timeout=0.2)
    answer = await second
    assert answer.status_code == 409
    assert answer.json()["type"] == "/problems/idempotency-in-progress"
    assert await balances(client, pair) == [100, 0]


async def test_of_many_requests_with_one_key_one_moves_money(client: httpx.AsyncClient, pair: Pair) -> None:
    answers = await asyncio.gather(*(post(client, transfer(pair), "k1") for _ in range(20)))
    made = [a for a in answers if a.status_code == 201]
    assert {answer.json()["id"] for answer in made} == {made[0].json()["id"]}
    assert {a.status_code for a in answers} <= {201, 409}
    assert await balances(client, pair) == [70, 30]


async def test_the_transaction_of_a_request_carries_its_id(
    client: httpx.AsyncClient, database: Database, pair: Pair
) -> None:
    async with database.connection() as connection:
        await connection.execute("CREATE TABLE seen (name text)")
        await connection.execute(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " INSERT INTO seen VALUES (current_setting('application_name')); RETURN NEW; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER note BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION note()"
        )
    await client.post("/v1/transfers", json=transfer(pair), headers={"X-Request-ID": "req-7"})
    async with database.connection() as connection:
        assert await connection.fetchval("SELECT name FROM seen") == "ledger:req-7"
