"""A real Prometheus watches a service: alerts fire when they should, and each query has an answer."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import APIRouter
from lifeguard.database import DatabaseUnavailable
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from lifeguard.web import ConnectionDep, stale_if_error

from tests.deploy.exporter import balancing
from tests.deploy.prometheus import Prometheus, watching
from tests.deploy.promql import panels, rules, runbooks
from tests.inside import service, settings_for

pytestmark = [pytest.mark.slow, pytest.mark.deploy]

CLIENTS = 20
PAUSE = 0.5
"""Seconds between two requests of a client: connections are to be short, not the processor's time, which each
scrape needs, too, within a second."""
ELSEWHERE = re.compile(r"haproxy|db_replica_|db_reads_total|balancer")
"""What is asked of HAProxy, below, and of a service with a replica."""
routes = APIRouter(prefix="/test")
failure: list[Exception] = []
"""What `/clock` raises; nothing while it is empty."""


@routes.get("/hold/{seconds}")
async def hold(seconds: float, connection: ConnectionDep) -> None:
    await connection.execute("SELECT pg_sleep($1)", seconds)


@routes.get("/clock", dependencies=[stale_if_error(seconds=60)])
async def clock() -> int:
    if failure:
        raise failure[0]
    return 12


@dataclass
class Watched:
    """A service, and the Prometheus that scrapes it."""

    service: Service
    prometheus: Prometheus


@pytest.fixture
async def watched(
    migrated_database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Watched]:
    """A service with two connections at most, which Prometheus has found; with other settings by the
    fixture's parameter."""
    settings = settings_for(migrated_database, pool_max_size=2, **getattr(request, "param", {}))
    async with service(settings, routes=routes) as running:
        await until_ready(running)
        async with watching(running.client.base_url.netloc.decode(), tmp_path) as prometheus:
            await eventually(lambda: prometheus.series("app_ready"))
            yield Watched(running, prometheus)


async def test_a_saturated_service_fires_the_alerts(watched: Watched) -> None:
    prometheus = watched.prometheus
    await eventually(lambda: prometheus.series("lifeguard:pool_shed:rate2m"))
    assert await prometheus.alerts() == set()

    async with clients(watched.service, "/test/hold/6"):

        async def fire() -> bool:
            expected = {"LifeguardPoolShedding", "LifeguardPoolRefusing", "LifeguardErrorBudgetBurnsFast"}
            return expected <= await prometheus.alerts()

        await eventually(fire, interval=0.5)
    rules = [rule for group in (await prometheus.ask("rules"))["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules if rule["health"] != "ok"} == set()


# The two connections serve ten a second: about twenty wait, and some still do after a pause of the service.
@pytest.mark.parametrize("watched", [{"pool_queue_target": 2}], indirect=True)
async def test_a_queue_that_never_empties_fires_an_alert_though_the_excess_is_shed(watched: Watched) -> None:
    async with clients(watched.service, "/test/hold/0.2", times=2 * CLIENTS):

        async def fire() -> bool:
            return "LifeguardPoolQueueStanding" in await watched.prometheus.alerts()

        await eventually(fire, interval=0.5)
    assert "LifeguardPoolStuck" not in await watched.prometheus.alerts()
    assert watched.service.state["database"].primary.stats().shed


async def test_every_query_of_panels_and_runbooks_has_an_answer(
    watched: Watched, postgres: PostgresServer
) -> None:
    missing = {
        name: expression
        for name, expression in (panels("expr") | runbooks("promql")).items()
        if not ELSEWHERE.search(expression)
    }
    legends = panels("legendFormat")

    async def look() -> bool:
        for name, expression in list(missing.items()):
            for labels, value in await watched.prometheus.series(expression):
                assert set(re.findall(r"{{(\w+)}}", legends.get(name, ""))) <= labels.keys(), name
                if math.isfinite(value):
                    missing.pop(name, None)
        assert not missing
        return True

    async def have_an_accident() -> None:
        failure[:] = [] if failure else [DatabaseUnavailable("as told")]
        await postgres.kill_backends()

    async with (
        clients(watched.service, "/items"),
        clients(watched.service, "/test/hold/0.2"),
        clients(watched.service, "/test/clock"),
        repeatedly(have_an_accident, pause=1),
    ):
        await eventually(look, interval=0.5)


async def test_haproxy_has_what_is_asked_of_it_and_is_told_of_when_its_server_goes(
    migrated_database: str, tmp_path: Path
) -> None:
    async with service(settings_for(migrated_database), routes=routes) as running:
        await until_ready(running)
        target = running.client.base_url.netloc.decode()
        async with (
            balancing(target, tmp_path) as balancer,
            watching(target, tmp_path, balancer=balancer.exporter) as prometheus,
        ):
            exported = set(re.findall(r"^# TYPE (\w+)", await balancer.metrics(), re.MULTILINE))
            missing = {name: text for name, text in panels("expr").items() if "haproxy" in text}
            texts = " ".join([*missing.values(), *(rule["expr"] for rule in rules())])
            assert set(re.findall(r"\bhaproxy_\w+", texts)) <= exported

            async def look() -> bool:
                for name, expression in list(missing.items()):
                    if await prometheus.series(expression):
                        del missing[name]
                return not missing

            async def ask() -> None:
                await balancer.client.get("/items")

            async with repeatedly(ask, pause=0.1):
                await eventually(look, interval=0.5)
                assert not {name for name in await prometheus.alerts() if "Balancer" in name}
                await balancer.tell("set server service/app1 state maint")

                async def fire() -> bool:
                    expected = {"LifeguardBalancerNoServer", "LifeguardBalancerErrors"}
                    return expected <= await prometheus.alerts()

                await eventually(fire, interval=0.5)


@asynccontextmanager
async def clients(running: Service, path: str, times: int = CLIENTS) -> AsyncIterator[None]:
    """So many ask for `path` over and over, and take what they get."""

    async def ask() -> None:
        await running.client.get(path, timeout=30)

    async with repeatedly(ask, pause=PAUSE, times=times):
        yield


@asynccontextmanager
async def repeatedly(
    work: Callable[[], Awaitable[None]], *, pause: float, times: int = 1
) -> AsyncIterator[None]:
    """Do `work` with these pauses, so many times at once, as long as the block runs."""

    async def go_on() -> None:
        while True:
            await work()
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(go_on()) for _ in range(times)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
