"""Recipes outside of the service: scripts, jobs, apps of other makes, queries that are built."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from lifeguard.observability import logs
from lifeguard.pool import Pool
from sqlalchemy import ARRAY, Text, any_, bindparam, func, insert, literal, select

from docs.cookbook import (
    moving_asyncpg_after,
    moving_asyncpg_before,
    moving_sqlalchemy_before,
    nightly_job,
    pool_alone,
    query_builder,
    script,
    shedding,
)
from docs.cookbook.query_builder import compiled, orders
from tests.cookbook.conftest import RECIPES, Shop


@pytest.fixture
def exported(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """Its database is in the environment, as scripts and other apps find it."""
    monkeypatch.setenv("DATABASE_URL", shop.url)
    yield shop
    logs.configure(shop.service.state["settings"])  # a script has its own


async def old_orders(shop: Shop, number: int) -> None:
    await shop.database.execute(
        "INSERT INTO orders (customer, item, created_at)"
        " SELECT 'ada', 'tea', now() - interval '40 days' FROM generate_series(1, $1)",
        number,
    )


async def test_a_script_runs_on_the_service_s_database(
    exported: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    await old_orders(exported, 3)
    await script.main(30)
    said = capsys.readouterr()
    assert said.out == "3\n"
    assert "pool_drained" in said.err


async def test_a_job_does_its_work_in_batches(shop: Shop) -> None:
    await old_orders(shop, 25)
    assert await nightly_job.close_old_orders(shop.database, batch=10) == 25
    assert await nightly_job.close_old_orders(shop.database) == 0


async def test_a_job_that_runs_elsewhere_is_left_to_it(
    exported: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    await old_orders(exported, 25)
    async with exported.database.transaction() as other:
        await other.execute("SELECT pg_advisory_xact_lock($1)", nightly_job._LOCK)
        assert await nightly_job.main() == 0
        assert "old_orders_skipped" in capsys.readouterr().out
    assert await nightly_job.main() == 0
    assert "old_orders_closed" in capsys.readouterr().out


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def sold(client: httpx.AsyncClient, shop: Shop, prefix: str = "") -> list[object]:
    """What a client and the tables see of an app that is moved."""
    await shop.database.execute("TRUNCATE orders, stock RESTART IDENTITY")
    await shop.database.execute("INSERT INTO stock VALUES ('tea', 1)")
    seen: list[object] = [(await client.get(f"{prefix}/orders/1")).status_code]
    made = await client.post(f"{prefix}/orders", params={"item": "tea"})
    seen += [made.status_code, made.json(), (await client.get(f"{prefix}/orders/1")).json()]
    seen.append(await shop.database.fetchval("SELECT quantity FROM stock WHERE item = 'tea'"))
    return seen


async def test_an_app_moved_from_asyncpg_does_what_it_did(exported: Shop) -> None:
    async with served(moving_asyncpg_before.app) as before, served(moving_asyncpg_after.app) as after:
        assert await sold(before, exported) == await sold(after, exported)


async def test_an_app_moved_from_sqlalchemy_does_what_it_did(exported: Shop) -> None:
    async with served(moving_sqlalchemy_before.app) as before:
        assert await sold(before, exported) == await sold(exported.client, exported, prefix="/moved")


@pytest.mark.parametrize("app", [pool_alone.app, moving_asyncpg_after.app], ids=["alone", "moved"])
async def test_an_app_of_another_make_answers_503_when_the_pool_refuses(exported: Shop, app: FastAPI) -> None:
    path = "/orders/count" if app is pool_alone.app else "/orders/1"
    async with served(app) as client:
        assert (await client.get(path)).status_code in {200, 404}
        pool: Pool = app.state.pool
        await pool.close()
        refused = await client.get(path)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1


BUILT = [
    (select(orders.c.id).where(orders.c.customer == "ada"), ["ada"]),
    (
        select(orders.c.id).where(orders.c.state.in_(["open", "new"]), orders.c.quantity > 2),
        [2, "open", "new"],
    ),
    (select(orders.c.id).where(orders.c.state.in_([])), []),
    (
        select(orders.c.id).where(
            orders.c.customer == bindparam("who", "ada"), orders.c.item != bindparam("who", "ada")
        ),
        ["ada"],
    ),
    (insert(orders).values(customer="ada", item=func.lower("TEA"), quantity=1, state="open"), None),
    (
        select(orders.c.id).where(orders.c.state == any_(bindparam("states", ["open"], ARRAY(Text)))),
        [["open"]],
    ),
    (select(literal("100%"), orders.c.id).limit(3), ["100%", 3]),
]


@pytest.mark.parametrize(("statement", "values"), BUILT)
async def test_built_statements_are_taken_by_the_server(
    shop: Shop, statement: object, values: list[object]
) -> None:
    text, arguments = compiled(statement)  # type: ignore[arg-type]  # several kinds
    if values is not None:
        assert list(arguments) == values
    async with shop.database.transaction() as transaction:
        await transaction.fetch(text, *arguments)


async def test_built_queries_find(shop: Shop) -> None:
    await shop.database.execute(
        "INSERT INTO orders (customer, item, quantity, state)"
        " VALUES ('ada', 'tea', 1, 'open'), ('ada', 'wine', 5, 'new'), ('eve', 'tea', 1, 'open')"
    )

    async def found(**asked: str | int) -> list[str]:
        rows = (await shop.client.get("/built/orders", params={"customer": "ada", **asked})).json()
        return [row["item"] for row in rows]

    assert await found() == ["tea", "wine"]
    assert await found(state="new,closed") == ["wine"]
    assert await found(at_least=2) == ["wine"]
    assert await found(state="new,closed", at_least=2) == ["wine"]
    assert await found(state="open,closed", at_least=2) == []
    assert await found(state="'; DROP TABLE orders; --") == []


async def test_built_statements_are_undone_with_their_transaction(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.database.execute("INSERT INTO orders (customer, item) VALUES ('ada', 'tea')")
    moving = {"source": "ada", "target": "eve"}
    with monkeypatch.context() as broken:
        broken.setattr(query_builder, "insert", lambda _: select(func.fail()))
        assert (await shop.client.post("/built/move", json=moving)).status_code == 500
    customers = "SELECT array_agg(customer ORDER BY id) FROM orders"
    assert await shop.database.fetchval(customers) == ["ada"]
    assert (await shop.client.post("/built/move", json=moving)).status_code == 204
    assert await shop.database.fetchval(customers) == ["eve", "eve"]


async def test_shedding_is_as_its_page_shows(shop: Shop) -> None:
    """How many were served; when, and how many at all where it goes on, depends on the machine."""
    page = (RECIPES / "shedding.md").read_text(encoding="utf-8")
    shown = re.findall(r"^(\d+) x 20, queue_target=(.*)\n((?: .*\n)+)", page, re.MULTILINE)
    assert [said[:2] for said in shown] == [("1", "0.25"), ("1", "0"), ("15", "0.25"), ("15", "0")]
    once, once_without, on_and_on = await asyncio.gather(
        shedding.waits_with(shop.url, 0.25, 1),
        shedding.waits_with(shop.url, 0, 1),
        shedding.waits_with(shop.url, 0.25, 5),
    )
    assert _totals(once) == _totals(once_without) == {"served": 20}
    assert all("   20 served, " in lines for *_, lines in shown[:2])
    assert sum(_totals(on_and_on).values()) == 100
    assert any(outcome.startswith("refused") for outcome in on_and_on)


def _totals(waits: dict[str, list[float]]) -> dict[str, int]:
    return {outcome: len(seconds) for outcome, seconds in waits.items()}
