"""Clients that send the token of their write, on a standby that is a second late."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from lifeguard.database.migrations import upgrade
from lifeguard.testing.service import running
from lifeguard.testing.standby import Replication, replication
from lifeguard.testing.waiting import eventually
from pydantic import SecretStr

from app.main import create_app
from app.settings import Settings
from tests.ledger.conftest import LEDGER, open_account

TOKEN = "X-Consistency-Token"
CLIENTS, TRANSFERS, READS = 5, 3, 6


@pytest.fixture
async def pair(cluster: Path) -> AsyncIterator[Replication]:
    async with replication(cluster, recovery_min_apply_delay="1s") as pair:
        await upgrade(Settings(database_url=SecretStr(pair.primary.dsn())))
        await pair.caught_up()
        yield pair


@pytest.mark.slow
async def test_no_read_is_older_than_its_token_and_the_standby_serves_its_part(pair: Replication) -> None:
    settings = LEDGER.settings_for(
        pair.primary.dsn(), database_replica_url=SecretStr(pair.standby.dsn()), pool_queue_target=0
    )
    async with running(create_app(settings)) as service, service.client() as client:
        database = service.state["database"]
        await eventually(lambda: all(guard.serves for guard in database.guards))
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(book_and_look(client))
        assert database.reads["replica"] > 0
        assert database.reads["primary"] > 0


async def book_and_look(client: httpx.AsyncClient) -> None:
    source, target = await open_account(client, 100), await open_account(client)
    for number in range(1, TRANSFERS + 1):
        booked = await book(client, source, target, number)
        again = await book(client, source, target, number)
        assert again.headers["Idempotent-Replayed"] == "true"
        for answer in (booked, again) * (READS // 2):
            seen = await client.get(f"/v1/accounts/{target}", headers={TOKEN: answer.headers[TOKEN]})
            assert seen.json()["balance"] == number
            await asyncio.sleep(0.3)  # some reads before the standby has it, and some after that


async def book(client: httpx.AsyncClient, source: int, target: int, number: int) -> httpx.Response:
    answer = await client.post(
        "/v1/transfers",
        json={"from_account": source, "to_account": target, "amount": 1},
        headers={"Idempotency-Key": f"{target}-{number}"},
    )
    assert answer.status_code == 201
    return answer
