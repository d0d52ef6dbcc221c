"""Transfers while a synchronous standby is silent: what was acknowledged is there after a failover."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from lifeguard.database.migrations import upgrade
from lifeguard.testing.standby import Replication, replication
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr

from app.settings import Settings
from tests.ledger.conftest import client_on, open_account

HURRY = {"X-Request-Timeout": "0.3"}


@pytest.fixture
async def pair(cluster: Path) -> AsyncIterator[Replication]:
    async with replication(cluster) as pair:
        await upgrade(Settings(database_url=SecretStr(pair.primary.dsn())))
        yield pair


async def commits_in_wait(pair: Replication) -> list[int]:
    """The backends that have committed here and wait for the standby."""
    waiting = [row for row in await pair.primary.backends() if row["wait_event"] == "SyncRep"]
    return [row["pid"] for row in waiting]


async def end_waits(pair: Replication) -> None:
    """What a cancel request would do, or an operator: the rows become visible, and no standby has them."""
    async with pair.primary.connect() as admin:
        for pid in await commits_in_wait(pair):
            await admin.execute("SELECT pg_cancel_backend($1)", pid)

    async def nobody_waits() -> bool:
        return not await commits_in_wait(pair)

    await eventually(nobody_waits)


async def transfers_on(server: Any) -> set[str]:
    async with server.connect() as admin:
        query = "SELECT idempotency_key FROM transfers WHERE idempotency_key IS NOT NULL"
        return {row["idempotency_key"] for row in await admin.fetch(query)}


@pytest.mark.slow
async def test_what_was_acknowledged_survives_the_primary_replays_included(pair: Replication) -> None:
    acknowledged: set[str] = set()

    async with client_on(pair.primary.dsn()) as client:
        source, target = await open_account(client, 100), await open_account(client)
        body = {"from_account": source, "to_account": target, "amount": 1}

        async def book(key: str, **headers: str) -> httpx.Response:
            answer = await client.post(
                "/v1/transfers", json=body, headers={"Idempotency-Key": key, **headers}
            )
            if answer.status_code == 201:
                acknowledged.add(key)
            return answer

        await pair.wait_for_standby()
        assert (await book("received")).status_code == 201
        pair.stream.silence()

        unconfirmed = await book("unconfirmed", **HURRY)
        assert unconfirmed.json()["type"] == "/problems/commit-unknown"
        assert "not confirmed in time" in unconfirmed.json()["detail"]
        # No cancel was sent: the server still waits, and whoever repeats the request is told so.
        assert len(await commits_in_wait(pair)) == 1
        assert (await book("unconfirmed", **HURRY)).json()["type"] == "/problems/idempotency-in-progress"

        await end_waits(pair)
        assert "unconfirmed" in await transfers_on(pair.primary)
        repeated = await book("unconfirmed", **HURRY)
        assert repeated.json()["type"] == "/problems/commit-unknown"

        # A standby that has caught up confirms the replay as well.
        await end_waits(pair)
        pair.stream.resume()
        replayed = await book("unconfirmed")
        assert (replayed.status_code, replayed.headers["Idempotent-Replayed"]) == (201, "true")

        pair.stream.silence()
        await asyncio.gather(*(book(key, **HURRY) for key in ("lost", "lost too")))
        await end_waits(pair)
        await asyncio.gather(*(book(key, **HURRY) for key in ("lost", "received")))
    await pair.fail_over()
    assert acknowledged == {"received", "unconfirmed"}
    assert acknowledged <= await transfers_on(pair.standby)
