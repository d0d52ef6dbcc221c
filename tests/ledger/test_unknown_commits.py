"""A client whose transfer's COMMIT is lost in between: told so, and served exactly once in the end."""

from collections.abc import AsyncIterator

import httpx
import pytest
from lifeguard.testing.commits import CommitProxy, Fate
from lifeguard.testing.waiting import eventually

from tests.ledger.conftest import balance, client_on, open_account


@pytest.fixture
async def proxy(migrated_database: str) -> AsyncIterator[CommitProxy]:
    proxy = CommitProxy(migrated_database)
    async with proxy.serve():
        yield proxy


@pytest.fixture
async def distant(proxy: CommitProxy) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that reaches its database through the proxy."""
    async with client_on(proxy.dsn) as client:
        yield client


@pytest.mark.parametrize(("fate", "replayed"), [("cut", "true"), ("drop", None)])
async def test_a_retry_with_the_same_key_settles_it(
    distant: httpx.AsyncClient, proxy: CommitProxy, fate: Fate, replayed: str | None
) -> None:
    source, target = await open_account(distant, 100), await open_account(distant)
    body = {"from_account": source, "to_account": target, "amount": 30}

    proxy.at_commit = fate
    unknown = await distant.post("/v1/transfers", json=body, headers={"Idempotency-Key": "k1"})
    assert unknown.status_code == 503
    assert unknown.json()["type"] == "/problems/commit-unknown"
    assert "Retry-After" not in unknown.headers

    proxy.at_commit = "pass"
    settled: httpx.Response | None = None

    async def is_settled() -> bool:
        """The server may not have noticed yet that the first one's session has ended."""
        nonlocal settled
        settled = await distant.post("/v1/transfers", json=body, headers={"Idempotency-Key": "k1"})
        return bool(settled.json().get("type") != "/problems/idempotency-in-progress")

    await eventually(is_settled)
    assert settled is not None
    assert settled.status_code == 201
    assert settled.headers.get("Idempotent-Replayed") == replayed
    assert [await balance(distant, source), await balance(distant, target)] == [70, 30]
