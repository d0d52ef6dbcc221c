"""Accounts over HTTP: opened, found, listed, with their entries."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest
from lifeguard.database import Database

from tests.ledger.conftest import open_account

LARGEST = 2**53 - 1


async def test_an_account_is_opened_with_its_balance(client: httpx.AsyncClient) -> None:
    body = {"owner": "Ada", "currency": "EUR", "opening_balance": 1000}
    answer = await client.post("/v1/accounts", json=body)
    assert answer.status_code == 201
    account = answer.json()
    created_at = datetime.fromisoformat(account.pop("created_at"))
    assert account == {"id": account["id"], "owner": "Ada", "currency": "EUR", "balance": 1000}
    assert abs(datetime.now(UTC) - created_at) < timedelta(minutes=1)
    assert (await client.get(f"/v1/accounts/{account['id']}")).json() == answer.json()


async def test_an_opening_balance_is_an_entry_like_any_other(client: httpx.AsyncClient) -> None:
    account = await open_account(client, 1000)
    entries = (await client.get(f"/v1/accounts/{account}/entries")).json()["items"]
    assert [entry["amount"] for entry in entries] == [1000]
    transfer = (await client.get(f"/v1/transfers/{entries[0]['transfer_id']}")).json()
    assert (transfer["to_account"], transfer["amount"]) == (account, 1000)


async def test_an_account_without_money_has_no_entries(client: httpx.AsyncClient) -> None:
    account = await open_account(client)
    page = (await client.get(f"/v1/accounts/{account}/entries")).json()
    assert page == {"items": [], "next_cursor": None}


async def test_text_is_kept_as_it_is(client: httpx.AsyncClient) -> None:
    owner = ' O\'Brien \\ "x" \U0001f600 שלום\n\t-- '
    account = await open_account(client, owner=owner)
    assert (await client.get(f"/v1/accounts/{account}")).json()["owner"] == owner


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("owner", ""),
        ("owner", "x" * 201),
        ("owner", "a\x00b"),
        ("owner", None),
        ("owner", 7),
        ("currency", "XXX"),
        ("currency", "eur"),
        ("currency", "EURO"),
        ("opening_balance", -1),
        ("opening_balance", LARGEST + 1),
        ("opening_balance", 10**30),
        ("opening_balance", 1.5),
        ("opening_balance", 10.0),
        ("opening_balance", "10"),
        ("opening_balance", True),
        ("opening_balance", None),
        ("balance", 1),
    ],
)
async def test_what_is_no_account_is_not_opened(
    empty_ledger: httpx.AsyncClient, field: str, value: object
) -> None:
    body = {"owner": "Ada", "currency": "EUR", "opening_balance": 0, field: value}
    answer = await empty_ledger.post("/v1/accounts", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/validation"
    assert [fault["pointer"] for fault in problem["errors"]] == [f"#/{field}"]


async def test_text_that_is_no_unicode_is_refused(empty_ledger: httpx.AsyncClient) -> None:
    answer = await empty_ledger.post(
        "/v1/accounts",
        content=rb'{"owner": "\ud800", "currency": "EUR"}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422


@pytest.mark.parametrize("account_id", [1, 2**63 - 1])
async def test_an_unknown_account_is_not_found(empty_ledger: httpx.AsyncClient, account_id: int) -> None:
    for path in (f"/v1/accounts/{account_id}", f"/v1/accounts/{account_id}/entries"):
        answer = await empty_ledger.get(path)
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"


@pytest.mark.parametrize("account_id", ["0", "-1", "x", "1.5", str(2**63), "9" * 40])
async def test_what_cannot_be_an_id_is_refused(empty_ledger: httpx.AsyncClient, account_id: str) -> None:
    for path in (f"/v1/accounts/{account_id}", f"/v1/accounts/{account_id}/entries"):
        assert (await empty_ledger.get(path)).status_code == 422
    assert (await empty_ledger.get(f"/v1/transfers/{account_id}")).status_code == 422


async def test_pages_show_every_account_once_in_order(client: httpx.AsyncClient) -> None:
    opened = [await open_account(client, 5, owner=f"owner {n}") for n in range(7)]
    seen: list[int] = []
    sizes: list[int] = []
    cursor = None
    while True:
        parameters = {"limit": 3} if cursor is None else {"limit": 3, "cursor": cursor}
        page = (await client.get("/v1/accounts", params=parameters)).json()
        seen += [account["id"] for account in page["items"]]
        sizes.append(len(page["items"]))
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == opened
    assert sizes == [3, 3, 1]


async def test_a_page_that_is_just_full_is_the_last(client: httpx.AsyncClient) -> None:
    for _ in range(3):
        await open_account(client)
    assert (await client.get("/v1/accounts", params={"limit": 3})).json()["next_cursor"] is None


async def test_what_is_opened_between_two_pages_hides_and_repeats_nothing(
    client: httpx.AsyncClient,
) -> None:
    first = [await open_account(client) for _ in range(3)]
    page = (await client.get("/v1/accounts", params={"limit": 2})).json()
    later = await open_account(client)
    rest = (await client.get("/v1/accounts", params={"cursor": page["next_cursor"]})).json()
    assert [account["id"] for account in page["items"] + rest["items"]] == [*first, later]


async def test_entries_are_paged_the_latest_first(client: httpx.AsyncClient) -> None:
    source, target = await open_account(client, 100), await open_account(client)
    for amount in (1, 2, 3):
        body = {"from_account": source, "to_account": target, "amount": amount}
        assert (await client.post("/v1/transfers", json=body)).status_code == 201
    path = f"/v1/accounts/{source}/entries"
    page = (await client.get(path, params={"limit": 3})).json()
    rest = (await client.get(path, params={"limit": 3, "cursor": page["next_cursor"]})).json()
    assert [entry["amount"] for entry in page["items"]] == [-3, -2, -1]
    assert [entry["amount"] for entry in rest["items"]] == [100]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"cursor": ""},
        {"cursor": "x"},
        {"cursor": "x" * 12},
        {"cursor": "+/+/+/+/+/+"},
        {"cursor": "ééééééééééé"},
        {"cursor": "aaaaaaaaaa\n"},
    ],
)
async def test_what_cannot_be_a_page_is_refused(
    empty_ledger: httpx.AsyncClient, parameters: dict[str, str | int]
) -> None:
    assert (await empty_ledger.get("/v1/accounts", params=parameters)).status_code == 422


@pytest.mark.parametrize("cursor", ["AAAAAAAAAAA", "__________8", "gAAAAAAAAAA", "___________"])
async def test_a_made_up_cursor_is_a_place_like_any_other(client: httpx.AsyncClient, cursor: str) -> None:
    account = await open_account(client, 1)
    for path in ("/v1/accounts", f"/v1/accounts/{account}/entries"):
        assert (await client.get(path, params={"cursor": cursor})).status_code == 200


async def test_funding_accounts_are_nobodys_business(client: httpx.AsyncClient, database: Database) -> None:
    account = await open_account(client, 1000)
    async with database.connection() as connection:
        funding = await connection.fetchval("SELECT id FROM accounts WHERE is_funding")
    listed = (await client.get("/v1/accounts")).json()["items"]
    assert [item["id"] for item in listed] == [account]
    assert (await client.get(f"/v1/accounts/{funding}")).status_code == 404
    assert (await client.get(f"/v1/accounts/{funding}/entries")).status_code == 404
    for source, target in ((funding, account), (account, funding)):
        body = {"from_account": source, "to_account": target, "amount": 1}
        assert (await client.post("/v1/transfers", json=body)).status_code == 404
