"""What clients ask for, and the statements by which every contestant answers it: those of the ledger."""

from __future__ import annotations

import json

# pylint: disable=duplicate-code # The peers must not import the service; tests hold the two equal.

POOL_SIZE = 10
"""Connections of each pool, from the start on."""
ACCOUNTS = 100
"""There from the start; GETs ask for one after the other."""

FIND_ACCOUNT = """
SELECT id, owner, currency, balance, created_at FROM accounts
 WHERE id = $1 AND NOT is_funding
"""

# The account, the transfer of its opening balance, and its two entries.
OPEN_ACCOUNT = """
WITH funding AS (
    SELECT id FROM accounts WHERE is_funding AND currency = $2
), account AS (
    INSERT INTO accounts (owner, currency, balance)
    SELECT $1, $2, $3::bigint FROM funding
    RETURNING id, owner, currency, balance, created_at
), opening AS (
    INSERT INTO transfers (from_account, to_account, amount, currency, memo)
    SELECT funding.id, account.id, account.balance, account.currency, 'opening balance'
      FROM funding, account WHERE account.balance > 0
    RETURNING id, from_account, to_account, amount
), booked AS (
    INSERT INTO entries (transfer_id, account_id, amount)
    SELECT opening.id, side.account_id, side.amount
      FROM opening, LATERAL (VALUES (from_account, -amount), (to_account, amount))
           AS side (account_id, amount)
)
SELECT * FROM account
"""

_NEW = json.dumps({"owner": "Ada", "currency": "EUR", "opening_balance": 100}, separators=(",", ":"))


def path_of(account: int) -> str:
    return f"/v1/accounts/{account}"


def request(method: str, path: str, body: str = "") -> str:
    """A request as clients send it, with the headers that all of them send."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: application/json", "User-Agent: bench"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", body])


OPEN = request("POST", "/v1/accounts", _NEW)
NOT_THERE = request("GET", path_of(10**9))
NOT_VALID = request("GET", path_of(0))
"""The peers, which have no bound for an id, find no such account."""


def finding(first: int) -> list[str]:
    """GETs of all the accounts, whose ids begin with `first`."""
    return [request("GET", path_of(first + number)) for number in range(ACCOUNTS)]


def mixture(first: int) -> list[str]:
    """What a service meets in a long time: nine reads for each write, and now and then a client's fault."""
    found = finding(first)
    nine = [found[number : number + 9] for number in range(0, ACCOUNTS, 9)]
    return [one for reads in nine for one in (*reads, OPEN)] + [NOT_THERE, NOT_VALID]
