"""What the ledger is sent that is no number, no text or no JSON of it: refused in words, and never a 500."""

import json
from typing import Any

import httpx
import pytest

ODD = ["1_0", "%201", "1%20", "+1", "%2B1", "01", "1.0", "1e1", "%D9%A1", "%00", "x", "9" * 10_000]
BEYOND = [str(2**63), str(2**64), "9" * 19, "9" * 4299, "-1", "0", str(-(2**63) - 1)]
PATHS = ["/v1/accounts/{}", "/v1/accounts/{}/entries", "/v1/transfers/{}"]


@pytest.mark.parametrize("number", [*ODD, *BEYOND], ids=lambda number: f"{number[:20]}.{len(number)}")
async def test_an_id_or_a_limit_is_a_number_that_there_can_be(
    empty_ledger: httpx.AsyncClient, number: str
) -> None:
    for path in [*PATHS, "/v1/accounts?limit={}", "/v1/accounts/1/entries?limit={}"]:
        answer = await empty_ledger.get(path.format(number))
        endless = len(number) > 4300 and "?" not in path  # refused before anybody reads the path
        refusal = (400, "/problems/bad-request") if endless else (422, "/problems/validation")
        assert (answer.status_code, answer.json()["type"]) == refusal, path
        assert len(answer.content) < 1000


@pytest.mark.parametrize("path", PATHS)
async def test_the_largest_id_is_merely_not_there(empty_ledger: httpx.AsyncClient, path: str) -> None:
    assert (await empty_ledger.get(path.format(2**63 - 1))).status_code == 404


@pytest.mark.parametrize(
    "cursor", ["", "x", "x" * 12, "x" * 20_000, "+/+/+/+/+/+", "%00" * 11, "AAAAAAAAAA=", "%0AAAAAAAAAAA"]
)
async def test_a_cursor_is_one_of_ours(empty_ledger: httpx.AsyncClient, cursor: str) -> None:
    answer = await empty_ledger.get(f"/v1/accounts?cursor={cursor}")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "#/cursor")


ACCOUNT = {"owner": "Ada", "currency": "EUR", "opening_balance": 1}
TRANSFER = {"from_account": 1, "to_account": 2, "amount": 1, "memo": ""}


@pytest.mark.parametrize(
    ("whole", "member", "value"),
    [
        *((ACCOUNT, "owner", value) for value in ("", "\0", "a\0b", "x" * 201, "x" * 60_000, 1, None, ["a"])),
        *((ACCOUNT, "currency", value) for value in ("", "eur", "EUR\0", "EUR ", "x" * 60_000, 1)),
        *(
            (ACCOUNT, "opening_balance", value)
            for value in (-1, 2**53, 2**64, 10**4000, 1.0, "1", True, 1e300)
        ),
        *((TRANSFER, "memo", value) for value in ("\0", "x" * 501, "x" * 60_000, 1)),
        *((TRANSFER, "amount", value) for value in (0, -1, 2**53, 10**4000, 1.5, "1", False)),
        *(
            (TRANSFER, side, value)
            for side in ("from_account", "to_account")
            for value in (0, 2**63, "1", 1.0)
        ),
        (TRANSFER, "x" * 60_000, 1),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else type(value).__name__,
)
async def test_a_value_is_one_that_can_be_kept(
    empty_ledger: httpx.AsyncClient, whole: dict[str, Any], member: str, value: object
) -> None:
    path = "/v1/accounts" if whole is ACCOUNT else "/v1/transfers"
    answer = await empty_ledger.post(path, json={**whole, member: value})
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
    (fault,) = answer.json()["errors"]
    assert fault["pointer"].startswith(f"#/{member[:100]}")
    assert len(answer.content) < 1000


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 10_000, "a b", "a\tb", "\x7f", "ü"])
async def test_an_idempotency_key_is_short_and_plain(empty_ledger: httpx.AsyncClient, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode()}
    answer = await empty_ledger.post("/v1/transfers", json=TRANSFER, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")


@pytest.mark.parametrize(
    "text",
    [
        '{"from_account": 1, "to_account": 2, "amount": 1, "amount": 100}',
        '{"from_account": 1, "to_account": 2, "amount": 1_0}',
        '{"from_account": 1, "to_account": 2, "amount": NaN}',
        '{"from_account": 1, "to_account": 2, "amount": 1e999999}',
        f'{{"from_account": 1, "to_account": 2, "amount": {"1" * 10_000}}}',
        r'{"from_account": 1, "to_account": 2, "amount": 1, "memo": "\ud800"}',
        f"\ufeff{json.dumps(TRANSFER)}",
        "[" * 60_000,
        f"[{'{},' * 20_000}{{}}]",
    ],
    ids=range(9),
)
async def test_a_transfer_that_could_be_read_in_two_ways_is_not_made(
    empty_ledger: httpx.AsyncClient, text: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await empty_ledger.post("/v1/transfers", content=text.encode(), headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/validation")
    assert len(answer.content) < 1000
