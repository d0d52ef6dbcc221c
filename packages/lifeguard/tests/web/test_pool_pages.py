"""The pool pages: numbers for everybody, names of places for operators only."""

import asyncio
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from lifeguard.pool import LeaseInfo, Pool
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import ConnectionDep, DatabaseDep, ReadConnectionDep

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.stopwatch import Stopwatch
from packages.lifeguard.tests.web.conftest import Log

TOKEN = "canary-hush-hush-token"
CANCEL = "SELECT pg_cancel_backend($1) WHERE $1 <> pg_backend_pid()"


def leaves(node: Any) -> list[Any]:
    """Everything in a JSON document that is neither an object nor an array."""
    if isinstance(node, dict):
        return [leaf for child in node.values() for leaf in leaves(child)]
    if isinstance(node, list):
        return [leaf for child in node for leaf in leaves(child)]
    return [node]


class TestPool:
    async def test_says_numbers_and_states_only(self, serving: Service) -> None:
        page = (await serving.client.get("/pool")).json()
        for pool in page["pools"]:
            pool["stats"].pop("lanes")  # who those are is what they are shown for
        texts = {leaf for leaf in leaves(page) if isinstance(leaf, str)}
        assert texts == {"primary", "closed"}  # the pool's name, the breaker's state

    async def test_follows_the_pool(self, serving: Service) -> None:
        async with serving.state["database"].connection():
            (pool,) = (await serving.client.get("/pool")).json()["pools"]
        assert (pool["stats"]["used"], pool["stats"]["max_size"]) == (1, 5)
        assert pool["stats"]["wait"]["count"] == pool["stats"]["borrowed"]

    async def test_has_no_more_digits_than_anybody_reads(self, serving: Service) -> None:
        async with serving.state["database"].connection():
            serving.state["history"].take()
            pages = [(await serving.client.get(path)).json() for path in ("/pool", "/pool/leases")]
            numbers = leaves([*pages, serving.state["history"].since()])
        odd = [number for number in numbers if isinstance(number, float) and number != round(number, 6)]
        assert odd == []

    async def test_shows_the_replicas_pool_too(self, migrated_database: str) -> None:
        settings = settings_for(migrated_database, database_replica_url=migrated_database)
        async with service(settings) as running:
            pools = (await running.client.get("/pool")).json()["pools"]
            assert [pool["stats"]["name"] for pool in pools] == ["primary", "replica"]

            async def says_what_it_is() -> bool:
                primary, replica = (await running.client.get("/pool")).json()["pools"]
                unmeasured = {
                    "serves": True,
                    "standing": "unmeasured",
                    "lag_seconds": None,
                    "lag_bytes": None,
                    "obstacle": "",
                    "repeated": 0,
                    "host": migrated_database.partition("@")[2].partition("/")[0],
                }
                return primary["replica"] is None and replica["replica"] == unmeasured

            await eventually(says_what_it_is)  # it is no standby
            await running.client.get("/items")
            pools = (await running.client.get("/pool")).json()["pools"]
            assert [pool["reads"] for pool in pools] == [0, 1]


class TestLivePage:
    async def test_needs_nothing_from_elsewhere(self, serving: Service) -> None:
        page = (await serving.client.get("/pool/live")).text
        assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]  # a name, not a place
        assert not re.search(r"<(link|img|iframe)|\bsrc=|@import|url\(| style=| on\w+=", page)

    async def test_draws_every_state_of_a_connection(self, serving: Service) -> None:
        page = (await serving.client.get("/pool/live")).text
        (drawn,) = re.findall(r'title: "Connections".*?areas: \[(.*?)\],\n    limit', page, re.DOTALL)
        states = re.findall(r'\["(\w+)"', drawn)
        assert set(states) == {"idle", "used", "validating", "returning", "opening", "closing"}
        stats = serving.state["database"].primary.stats()
        (pool,) = serving.state["history"].since()[-1]["pools"]
        assert all(f".f-{state} " in page and state in pool and hasattr(stats, state) for state in states)

    async def test_lets_only_its_own_script_and_style_run(self, serving: Service) -> None:
        answer = await serving.client.get("/pool/live")
        policy = answer.headers["content-security-policy"]
        for tag in ("script", "style"):
            (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
            source = b64encode(sha256(content.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{source}'" in policy
        assert policy.startswith("default-src 'none';")

    async def test_its_events_begin_with_the_last_minutes_and_go_on(self, serving: Service) -> None:
        async with serving.client.stream("GET", "/pool/live/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            events = [json.loads(line[6:]) async for line in first_data(stream, 2)]
        history, latest = events
        assert history[-1]["pools"][0]["name"] == "primary"
        assert latest[0]["at"] > history[-1]["at"]

    async def test_its_events_end_when_the_service_drains(self, migrated_database: str) -> None:
        async with (
            service(settings_for(migrated_database)) as running,
            running.client.stream("GET", "/pool/live/events") as stream,
        ):
            lines = stream.aiter_lines()
            assert await anext(lines) == "retry: 2000"
            running.state["drain"].begin()
            async with Stopwatch() as watch:
                assert [line async for line in lines if line.startswith("error")] == []
            assert watch.seconds < 1


async def first_data(stream: httpx.Response, count: int) -> AsyncIterator[str]:
    async for line in stream.aiter_lines():
        if line.startswith("data: "):
            yield line
            count -= 1
            if not count:
                return


routes = APIRouter(prefix="/test")


@routes.get("/hold")
async def hold(connection: ReadConnectionDep) -> None:
    await connection.fetchval("SELECT pg_sleep(30)")


@routes.get("/hold/{number}")
async def hold_by_itself(number: int, database: DatabaseDep) -> None:
    async with database.connection() as connection:  # by itself
        await connection.fetchval("SELECT pg_sleep(30)")


@routes.get("/twice")
async def twice(connection: ConnectionDep, another: ReadConnectionDep) -> None:
    await connection.fetchval("SELECT 1")
    await another.fetchval("SELECT 1")


@routes.get("/twice-as-well")
async def twice_as_well(connection: ConnectionDep, another: ReadConnectionDep) -> None:
    await twice(connection, another)


def of_requests(pool: Pool) -> list[LeaseInfo]:
    """Leases that requests hold; readiness may hold one, too."""
    return [lease for lease in pool.leases() if lease.route]


async def cancelled(serving: Service, holding: asyncio.Task[httpx.Response], backend_pid: int) -> None:
    """End the request's statement, which it may not have sent yet when its lease is seen."""

    async def answered() -> bool:
        async with serving.state["database"].connection() as connection:
            await connection.execute(CANCEL, backend_pid)
        return holding.done()

    await eventually(answered)


class TestLeaks:
    """Reports of leaks name the endpoint, however the connection was borrowed for it."""

    async def test_a_dependency_s_name_the_endpoint_and_the_route(self, serving: Service) -> None:
        pool = serving.state["database"].primary
        for path, route, endpoint in (
            ("/test/hold", "GET /test/hold", "hold"),
            ("/test/hold/1", "GET /test/hold/{number}", "hold_by_itself"),
        ):
            holding = asyncio.create_task(serving.client.get(path))
            [lease] = await eventually(lambda: of_requests(pool))
            assert lease.route == route
            assert str(lease.borrowed_at).startswith(__file__)
            assert str(lease.borrowed_at).endswith(f" in {endpoint}")
            await cancelled(serving, holding, lease.backend_pid)
            assert (await holding).status_code == 504
            await eventually(lambda: not of_requests(pool))

    async def test_two_endpoints_that_borrow_twice_are_two_reports(self, serving: Service, log: Log) -> None:
        for path in ("/test/twice", "/test/twice", "/test/twice-as-well"):
            assert (await serving.client.get(path)).status_code == 200
        reports = [line for line in log() if line["event"] == "nested_borrow"]
        assert [(line["route"], line["borrowed_at"].rpartition(" ")[2]) for line in reports] == [
            ("GET /test/twice", "twice"),
            ("GET /test/twice-as-well", "twice_as_well"),
        ]


class TestLeases:
    async def test_name_the_request_that_holds_one(self, serving: Service) -> None:
        headers = {"X-Request-ID": "r1"}
        holding = asyncio.create_task(serving.client.get("/test/hold", headers=headers))

        async def held() -> list[dict[str, Any]]:
            leases = (await serving.client.get("/pool/leases")).json()["leases"]["primary"]
            return [lease for lease in leases if lease["task"] == "GET /test/hold r1"]

        leases = await eventually(held)
        assert any("in hold" in place for place in leases[0]["stack"])
        await cancelled(serving, holding, leases[0]["backend_pid"])
        assert (await holding).status_code == 504

    async def test_say_who_holds_a_connection_and_where_it_stands(self, serving: Service) -> None:
        async with serving.state["database"].connection() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
            leases = (await serving.client.get("/pool/leases")).json()["leases"]["primary"]
        (lease,) = [lease for lease in leases if lease["backend_pid"] == backend]
        assert "test_say_who_holds" in str(lease["stack"])
        assert lease["held_for"] > 0
        assert lease["overdue"] is False


@pytest.fixture(scope="module")
async def production(module_database: str) -> AsyncIterator[Service]:
    async with service(settings_for(module_database, app_env="production", ops_token=TOKEN)) as running:
        await until_ready(running)
        yield running


class TestLeasesInProduction:
    @pytest.mark.parametrize(
        ("authorization", "status", "name"),
        [
            (None, 401, "unauthorized"),
            ("Basic dXNlcjpwdw==", 401, "unauthorized"),
            ("Bearer wrong", 403, "forbidden"),
            (f"Bearer {TOKEN}x", 403, "forbidden"),
            ("Bearer ü", 403, "forbidden"),
        ],
    )
    async def test_are_refused(
        self, production: Service, authorization: str | None, status: int, name: str
    ) -> None:
        headers = {b"Authorization": authorization.encode()} if authorization else None
        answer = await production.client.get("/pool/leases", headers=headers)
        assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{name}")
        assert (answer.headers.get("www-authenticate") == "Bearer") is (status == 401)
        assert TOKEN not in answer.text

    async def test_are_shown_to_the_holder_of_the_token(self, production: Service) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = await production.client.get("/pool/leases", headers=headers)
        assert answer.json() == {"leases": {"primary": []}, "reports": {}, "blocked_by": {}}

    async def test_are_refused_to_everybody_without_a_token_set(self, module_database: str) -> None:
        async with service(settings_for(module_database, app_env="production")) as running:
            answer = await running.client.get("/pool/leases", headers={"Authorization": "Bearer None"})
            assert (answer.status_code, answer.json()["type"]) == (403, "/problems/forbidden")

    async def test_documentation_is_off(self, production: Service) -> None:
        for path in ("/docs", "/openapi.json", "/redoc"):
            assert (await production.client.get(path)).status_code == 404
