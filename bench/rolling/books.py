"""The ledger before and after: accounts to move money between, and whether the books are right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from bench.rolling.clients import Failed, Log, Wire, http

if TYPE_CHECKING:
    from collections.abc import Sequence

ACCOUNTS = 50
OPENING_BALANCE = 1_000_000
ATTEMPTS = 3

BOOKED = "SELECT idempotency_key, id FROM transfers WHERE idempotency_key IS NOT NULL"
UNBALANCED = """
SELECT (SELECT count(*) FROM (
           SELECT FROM entries GROUP BY transfer_id HAVING sum(amount) <> 0 OR count(*) <> 2))
     + (SELECT count(*) FROM transfers WHERE NOT EXISTS (
           SELECT FROM entries WHERE transfer_id = transfers.id))
     + (SELECT count(*) FROM accounts WHERE NOT is_funding AND balance <> (
           SELECT coalesce(sum(amount), 0) FROM entries WHERE account_id = accounts.id))
"""


@dataclass(frozen=True, slots=True)
class Audit:
    """Counts of transfers; all but the first should be 0."""

    acknowledged: int
    missing: int
    """Acknowledged, and not in the database under the id that the client was given."""
    unknown: int
    """In the database, and asked for by nobody, or more than once under one key."""
    unbalanced: int
    """Transfers and accounts whose entries do not add up."""

    @property
    def faults(self) -> int:
        return self.missing + self.unknown + self.unbalanced


async def open_accounts(port: int) -> list[int]:
    wire = Wire(port)
    new = {"owner": "bench", "currency": "EUR", "opening_balance": OPENING_BALANCE}
    body = json.dumps(new).encode()
    answers = [await wire.ask(http("POST", "/v1/accounts", body)) for _ in range(ACCOUNTS)]
    wire.close()
    return [json.loads(answer)["id"] for answer in answers]


async def repeat(port: int, log: Log) -> None:
    """Ask again, with its key, for every transfer whose answer was lost, as a client would."""
    wire = Wire(port)
    for write in log.unacknowledged:
        for attempt in range(ATTEMPTS):
            try:
                booked = await wire.ask(http("POST", "/v1/transfers", write.body, key=write.key))
            except Failed:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                log.acknowledged[write.key] = json.loads(booked)["id"]
                break
    wire.close()


async def audit(dsn: str, log: Log) -> Audit:
    """Compare what clients were told with what the database holds."""
    connection = await asyncpg.connect(dsn)
    try:
        rows: Sequence[asyncpg.Record] = await connection.fetch(BOOKED)
        unbalanced = await connection.fetchval(UNBALANCED)
    finally:
        await connection.close()
    return compare([(row["idempotency_key"], row["id"]) for row in rows], unbalanced, log)


def compare(booked: Sequence[tuple[str, int]], unbalanced: int, log: Log) -> Audit:
    """The same from what BOOKED and UNBALANCED give."""
    missing = set(log.acknowledged.items()) - set(booked)
    unknown = [one for one in booked if one[0] not in log.acknowledged]
    return Audit(
        acknowledged=len(log.acknowledged),
        missing=len(missing),
        unknown=len(unknown) + len(booked) - len(dict(booked)),
        unbalanced=unbalanced,
    )
