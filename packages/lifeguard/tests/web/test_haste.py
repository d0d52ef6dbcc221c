"""Clients in a hurry do not say that the database is gone."""

import pytest
from lifeguard.testing.clients import Clients
from lifeguard.testing.serving import Service

SETTINGS = {"pool_max_size": 2, "breaker_fail_max": 2}


@pytest.mark.parametrize(("timeout", "expected"), [("0.001", {400}), ("0.01", {200, 503, 504})])
async def test_five_connections_in_a_hurry_open_no_breaker(
    serving: Service, timeout: str, expected: set[int]
) -> None:
    url = str(serving.client.base_url)
    hasty, normal = Clients(url, "/items", timeout), Clients(url, "/items?limit=1000")
    async with hasty.asking(5), normal.asking(5):
        await hasty.answers(100)
        await normal.answers(20)
    assert set(hasty.statuses) <= expected
    assert normal.statuses.count(200) > 0.9 * len(normal.statuses)
    assert not serving.state["database"].breaker.transitions
