"""What the ledger still answers while its database is away."""

import httpx
from lifeguard.testing.service_fixtures import Fault

from tests.ledger.conftest import open_account


async def test_entries_that_were_asked_for_before(client: httpx.AsyncClient, database_down: Fault) -> None:
    account = await open_account(client, 100)
    fresh = await client.get(f"/v1/accounts/{account}/entries")
    async with database_down():
        stale = await client.get(f"/v1/accounts/{account}/entries")
    assert (stale.status_code, stale.json()) == (200, fresh.json())
    assert stale.headers["cache-status"] == '"ledger"; fwd=stale; fwd-status=503; detail=stale-if-error'
    assert "age" in stale.headers


async def test_but_no_balance(client: httpx.AsyncClient, database_down: Fault) -> None:
    account = await open_account(client, 100)
    assert (await client.get(f"/v1/accounts/{account}")).status_code == 200
    async with database_down():
        assert (await client.get(f"/v1/accounts/{account}")).status_code == 503
