"""What the ledger still answers while its database is away."""

import httpx
from lifeguard.database import Database
from lifeguard.pool import PoolUnavailable

from app.settings import Settings
from tests.ledger.conftest import open_account


def lose(database: Database) -> None:
    """Have the service find out that its database is gone."""
    stats = database.primary.stats()
    for _ in range(Settings().breaker_fail_max):
        database.breaker.failed(database.breaker.admit(), PoolUnavailable("gone", stats, retry_after=1))


async def test_entries_that_were_asked_for_before(client: httpx.AsyncClient, database: Database) -> None:
    account = await open_account(client, 100)
    fresh = await client.get(f"/v1/accounts/{account}/entries")
    lose(database)
    stale = await client.get(f"/v1/accounts/{account}/entries")
    assert (stale.status_code, stale.json()) == (200, fresh.json())
    assert stale.headers["cache-status"] == '"ledger"; fwd=stale; fwd-status=503; detail=stale-if-error'
    assert "age" in stale.headers


async def test_but_no_balance(client: httpx.AsyncClient, database: Database) -> None:
    account = await open_account(client, 100)
    assert (await client.get(f"/v1/accounts/{account}")).status_code == 200
    lose(database)
    assert (await client.get(f"/v1/accounts/{account}")).status_code == 503
