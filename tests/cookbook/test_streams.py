"""Recipes whose answers are long: what they hold meanwhile, and how they end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from lifeguard.testing.clients import plain_client
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from docs.cookbook import export_csv
from tests.cookbook.conftest import Shop

EXPORT = "/exports/orders.csv"
MANY = 8_000  # rows of 1000 bytes: more than the sockets in between take


@pytest.fixture
async def filled(shop: Shop) -> Shop:
    await shop.database.execute(
        "INSERT INTO orders (customer, item)"
        " SELECT 'ada, the \"first\"', repeat('x', 1000) FROM generate_series(1, $1)",
        MANY,
    )
    return shop


@asynccontextmanager
async def reading(shop: Shop, **headers: str) -> AsyncIterator[httpx.Response]:
    """A client that has read the head of an export, and then reads when it likes."""
    async with (
        plain_client(shop.client.base_url) as client,
        client.stream("GET", EXPORT, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        yield answer


async def until_stalled(shop: Shop, exports: int) -> None:
    """Wait until so many hold a transaction, and no more rows are fetched: their clients do not read."""

    async def stalled() -> bool:
        found = await shop.database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction' AND query LIKE '%FROM orders%'"
        )
        return bool(found == exports)

    await eventually(stalled)


async def test_an_export_is_whole_and_quoted(filled: Shop) -> None:
    lines = (await filled.client.get(EXPORT)).text.split("\r\n")
    assert lines[:2] == ["id,customer,item,quantity", f'1,"ada, the ""first""",{"x" * 1000},1']
    assert len(lines) == MANY + 2


async def test_a_client_that_hangs_up_gives_the_connection_back(filled: Shop) -> None:
    async with reading(filled):
        await until_stalled(filled, 1)
    await filled.all_returned()


async def test_a_client_that_does_not_read_has_its_connection_for_a_while_only(
    filled: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_csv.Export, "longest", 0.1)
    async with reading(filled) as answer:
        await filled.all_returned()
        with pytest.raises(httpx.RemoteProtocolError):  # and it can tell that this is not all
            await answer.aread()


async def test_the_deadline_of_a_request_ends_an_export(filled: Shop) -> None:
    async def export() -> str:
        try:
            answer = await filled.client.get(EXPORT, headers={"X-Request-Timeout": "0.05"})
        except httpx.RemoteProtocolError:
            return "broken off"
        return answer.json()["type"]  # type: ignore[no-any-return]  # on a machine too slow for the first rows

    assert await export() in {"broken off", "/problems/statement-timeout", "/problems/pool-timeout"}
    await filled.all_returned()


async def test_a_third_export_waits_for_one_of_the_two(filled: Shop) -> None:
    async with reading(filled), reading(filled):
        third = asyncio.create_task(filled.client.get(EXPORT))
        await eventually(lambda: export_csv._AT_ONCE._waiters)
        await until_stalled(filled, 2)
        assert (await filled.client.get("/moved/orders/1")).status_code == 200
    assert (await third).status_code == 200


LINES = "ada,tea,2\r\nada,tea,3\ngrace,wine,1\n"


async def test_an_import_is_merged(shop: Shop) -> None:
    answer = await shop.client.post("/imports/orders", content=LINES)
    assert answer.json() == {"lines": 3, "orders": 2}
    rows = await shop.database.fetch("SELECT customer, item, quantity FROM orders ORDER BY customer")
    assert [tuple(row) for row in rows] == [("ada", "tea", 5), ("grace", "wine", 1)]


@pytest.mark.parametrize(
    "wrong", [b"ada,tea\n", b"ada,tea,many\n", b"\xff,tea,1\n", b"ada,tea,1" * 5000, b"\n", b'"']
)
async def test_of_a_wrong_import_nothing_is_kept(shop: Shop, wrong: bytes) -> None:
    answer = await shop.client.post("/imports/orders", content=LINES.encode() + wrong)
    assert answer.json()["type"] == "/problems/validation"
    assert await shop.database.fetchval("SELECT count(*) FROM orders") == 0


async def test_what_the_server_refuses_in_an_import_is_undone(shop: Shop) -> None:
    answer = await shop.client.post("/imports/orders", content=f"{LINES}grace,tea,0\n")
    assert answer.status_code == 422
    assert await shop.database.fetchval("SELECT count(*) FROM orders") == 0


class Events:
    """What a client of the event stream hears, in order."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, str]:
        name = data = ""
        async with asyncio.timeout(20):
            async for line in self._lines:
                kind, _, value = line.partition(":")
                name = value.strip() if kind == "event" else name
                data = value.strip() if kind == "data" else data
                if not line and name:
                    return name, data
        raise AssertionError("the stream has ended")

    async def until(self, wanted: tuple[str, str]) -> None:
        while await self.next() != wanted:
            pass


@asynccontextmanager
async def watching(shop: Shop) -> AsyncIterator[Events]:
    async with (
        plain_client(shop.client.base_url) as client,
        client.stream("GET", "/orders/events") as answer,
    ):
        events = Events(answer.aiter_lines())
        assert await events.next() == ("start-over", "")
        yield events


async def notify(shop: Shop, payload: str) -> None:
    await shop.database.execute("SELECT pg_notify('orders', $1)", payload)


LISTENING = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"


async def listener(shop: Shop) -> int:
    """The process that listens at the server, once there is one."""
    pid: int = await eventually(lambda: shop.database.fetchval(LISTENING))
    return pid


async def test_all_clients_hear_what_is_notified(shop: Shop) -> None:
    await listener(shop)
    async with watching(shop) as one, watching(shop) as other:
        await notify(shop, json.dumps({"id": 1}))
        assert await one.next() == await other.next() == ("order", '{"id": 1}')
        await shop.all_returned()


async def test_the_feed_comes_back_when_its_session_was_killed(shop: Shop, postgres: PostgresServer) -> None:
    pid = await listener(shop)
    async with watching(shop) as events:
        await postgres.kill(pid)
        assert await events.next() == ("start-over", "")
        await notify(shop, "after")
        assert await events.next() == ("order", "after")


async def test_the_feed_comes_back_when_the_server_does(shop: Shop, postgres: PostgresServer) -> None:
    await listener(shop)
    async with watching(shop) as events:
        await postgres.restart()
        assert await events.next() == ("start-over", "")

        async def served() -> bool:
            return (await shop.client.get("/moved/orders/1")).status_code == 404

        await eventually(served)
        await notify(shop, "after")
        assert await events.next() == ("order", "after")


async def test_a_client_that_is_behind_is_told_to_start_over(shop: Shop) -> None:
    feed = shop.service.state["feed"]  # type: ignore[typeddict-item]  # the recipe's own
    payloads = feed.payloads()
    await anext(payloads)
    reading = asyncio.create_task(anext(payloads))
    await asyncio.sleep(0)
    for number in range(1000):
        feed._tell(str(number))
    heard = [await reading]
    while heard[-1] != "999":
        heard.append(await anext(payloads))
    assert None in heard
    assert len(heard) < 250
    await payloads.aclose()
