"""Recipes of one endpoint: each does what its page says."""

import asyncio
import io
import json
from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest
from lifeguard.observability import logs
from lifeguard.testing.waiting import eventually
from prometheus_client import REGISTRY
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from docs.cookbook import background_work, read_your_writes
from tests.cookbook.conftest import OWN_METRICS, Shop


async def stocked(shop: Shop, item: str, quantity: int) -> None:
    await shop.database.execute("INSERT INTO stock VALUES ($1, $2)", item, quantity)


async def ordered(shop: Shop, customer: str = "ada", item: str = "tea", state: str = "open") -> int:
    number: int = await shop.database.fetchval(
        "INSERT INTO orders (customer, item, state) VALUES ($1, $2, $3) RETURNING id", customer, item, state
    )
    return number


async def test_an_own_problem_has_its_type_and_members_and_undoes_the_transaction(shop: Shop) -> None:
    await stocked(shop, "tea", 3)
    refused = await shop.client.post("/stock/tea/take", json={"quantity": 4})
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json().items() >= {"type": "/problems/out-of-stock", "left": 3}.items()
    taken = await shop.client.post("/stock/tea/take", json={"quantity": 2})
    assert taken.json() == {"item": "tea", "quantity": 1}
    assert (await shop.client.post("/stock/nothing/take", json={"quantity": 1})).status_code == 404


async def test_an_own_problem_is_documented(shop: Shop) -> None:
    schema = (await shop.client.get("/openapi.json")).json()
    described = json.dumps(schema["paths"]["/stock/{item}/take"]["post"]["responses"]["409"])
    assert "/problems/out-of-stock" in described


async def test_an_own_variable_reaches_its_endpoint(shop: Shop) -> None:
    assert (await shop.client.get("/limits")).json() == {"orders": 100, "bills": False}


@pytest.fixture
def own_metrics() -> Iterator[None]:
    for one in OWN_METRICS:
        REGISTRY.register(one)
    yield
    for one in OWN_METRICS:
        REGISTRY.unregister(one)


@pytest.mark.usefixtures("own_metrics")
async def test_an_own_metric_is_served(shop: Shop) -> None:
    await stocked(shop, "tea", 10)
    sale = {"item": "tea", "quantity": 2, "channel": "web"}
    before = await metric(shop, 'shop_items_sold_total{channel="web"}')
    assert (await shop.client.post("/sales", json=sale)).status_code == 204
    assert await metric(shop, 'shop_items_sold_total{channel="web"}') == before + 2
    assert await metric(shop, 'shop_sale_items_bucket{le="2.0"}') >= 1
    assert (await shop.client.post("/sales", json={**sale, "channel": "x" * 9})).status_code == 422
    assert (await shop.client.post("/sales", json={**sale, "quantity": 9})).status_code == 404
    assert await metric(shop, 'shop_items_sold_total{channel="web"}') == before + 2


async def metric(shop: Shop, name: str) -> float:
    lines = (await shop.client.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


async def test_a_log_event_has_its_fields_and_the_id_of_the_request(shop: Shop) -> None:
    stream = io.StringIO()
    logs.configure(shop.service.state["settings"], stream=stream)
    await ordered(shop)
    answer = await shop.client.post("/customers/ada/cancel", headers={"X-Request-ID": "given-by-client"})
    assert answer.json() == {"orders": 1}
    logs.configure(shop.service.state["settings"])
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    (event,) = (event for event in events if event["event"] == "orders_cancelled")
    assert (event["orders"], event["request_id"]) == (1, "given-by-client")


async def test_background_work_is_done_after_the_answer_and_holds_no_connection_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def tell(_: background_work.Order) -> None:
        reached.set()
        await go_on.wait()

    monkeypatch.setattr(background_work, "tell", tell)
    answer = await shop.client.post("/orders", json={"customer": "ada", "item": "tea"})
    assert answer.status_code == 201
    await reached.wait()
    await shop.all_returned()
    confirmed = "SELECT confirmed_at FROM orders WHERE id = $1"
    assert await shop.database.fetchval(confirmed, answer.json()["id"]) is None
    go_on.set()
    assert await eventually(lambda: shop.database.fetchval(confirmed, answer.json()["id"]))


async def test_no_connection_is_held_while_another_service_is_asked(shop: Shop) -> None:
    number = await ordered(shop)
    shop.outside.asked.clear()
    shop.outside.answering.clear()
    shipping = asyncio.create_task(shop.client.post(f"/orders/{number}/ship"))
    await shop.outside.asked.wait()
    await shop.all_returned()
    shop.outside.answering.set()
    assert (await shipping).json() == {"order": number, "tracking": f"order-{number}"}
    assert (await shop.client.post(f"/orders/{number}/ship")).status_code == 409
    assert (await shop.client.post("/orders/404/ship")).status_code == 404


async def test_what_was_changed_during_the_call_is_not_overwritten(shop: Shop) -> None:
    number = await ordered(shop)
    shop.outside.asked.clear()
    shop.outside.answering.clear()
    shipping = asyncio.create_task(shop.client.post(f"/orders/{number}/ship"))
    await shop.outside.asked.wait()
    await shop.database.execute("UPDATE orders SET state = 'cancelled' WHERE id = $1", number)
    shop.outside.answering.set()
    assert (await shipping).json()["type"] == "/problems/order-not-open"


async def test_a_websocket_answers_and_borrows_for_each_message(shop: Shop) -> None:
    await stocked(shop, "tea", 3)
    async with connect(f"{str(shop.client.base_url).replace('http', 'ws')}/stock") as socket:
        for item, quantity in (("tea", 3), ("wine", None)):
            await socket.send(json.dumps({"item": item}))
            assert json.loads(await socket.recv()) == {"item": item, "quantity": quantity}
            await shop.all_returned()
        await socket.send("{")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1007


async def test_pages_of_known_origins_may_ask_and_read_why_they_are_refused(shop: Shop) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert (await shop.client.options("/orders", headers=asked)).status_code == 200
    refused = await shop.client.get("/nothing", headers={"Origin": "https://shop.example"})
    assert refused.status_code == 404
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    foreign = await shop.client.options("/orders", headers={**asked, "Origin": "https://other.example"})
    assert foreign.status_code == 400


async def test_a_second_database_is_another_one(shop: Shop) -> None:
    answer: httpx.Response = await shop.client.get("/report")
    assert answer.json()["lines"] == 7
    assert answer.json()["database"] != await shop.database.fetchval("SELECT current_database()")


async def test_a_session_remembers_its_last_write(shop: Shop) -> None:
    ada, bob = ({"X-Session": str(uuid4())} for _ in range(2))
    created = await shop.client.post("/sessions/orders", json={"item": "tea"}, headers=ada)
    assert created.status_code == 201
    assert (await shop.client.get("/sessions/orders", headers=ada)).json() == [created.json()]
    assert (await shop.client.get("/sessions/orders", headers=bob)).json() == []


def test_sessions_that_wrote_longest_ago_are_forgotten() -> None:
    sessions = read_your_writes.Sessions()
    first, second = uuid4(), uuid4()
    sessions.note(first, "a")
    sessions.note(second, "b")
    sessions.note(first, "c")
    for _ in range(read_your_writes.MOST_SESSIONS - 1):
        sessions.note(uuid4(), "d")
    assert (sessions.written(first), sessions.written(second)) == ("c", None)
