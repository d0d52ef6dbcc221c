"""Tests of an endpoint: the whole service, on a database of the test's own. Copy them below tests/."""

from collections.abc import AsyncIterator

import httpx
import pytest
from lifeguard.testing import eventually
from lifeguard.testing.serving import Service

from docs.cookbook import own_problem  # in a service, the app has the router already
from tests.inside import service, settings_for


@pytest.fixture
async def shop(migrated_database: str) -> AsyncIterator[Service]:
    async with service(settings_for(migrated_database), routes=own_problem.router) as running:
        database = running.state["database"]
        await database.execute("CREATE TABLE stock (item text PRIMARY KEY, quantity int)")  # a migration's
        await database.execute("INSERT INTO stock VALUES ('tea', 3)")
        yield running


async def test_what_is_taken_is_gone(shop: Service) -> None:
    answer = await shop.client.post("/stock/tea/take", json={"quantity": 2})
    assert (answer.status_code, answer.json()) == (200, {"item": "tea", "quantity": 1})


async def test_more_than_there_is_cannot_be_taken(shop: Service) -> None:
    answer = await shop.client.post("/stock/tea/take", json={"quantity": 4})
    assert answer.status_code == httpx.codes.CONFLICT
    assert answer.json().items() >= {"type": "/problems/out-of-stock", "left": 3}.items()
    again = await shop.client.post("/stock/tea/take", json={"quantity": 3})
    assert again.json()["quantity"] == 0  # nothing was taken the first time


async def test_a_connection_is_held_until_the_answer_only(shop: Service) -> None:
    await shop.client.post("/stock/tea/take", json={"quantity": 1})
    await eventually(lambda: shop.state["database"].primary.stats().used == 0)
