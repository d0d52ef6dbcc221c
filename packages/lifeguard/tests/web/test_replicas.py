"""Requests that read from replicas, while those freeze, and where one sees where reads go."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from lifeguard.database import Database
from lifeguard.database.migrations import upgrade
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.standby import Replication, replication
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.inside import service, settings_for

CONNECTIONS = 4  # of each pool, when its replica freezes
MOST = 5 * CONNECTIONS  # that it could have, if the replica let any more in
OBSTACLES = ("it does not answer", "there is no connection to it")
PACE = 0.05  # seconds between two requests


@dataclass
class Cluster:
    """A service on a primary with two standbys, and the roads to these."""

    running: Service
    servers: Replication
    roads: list[Proxy]

    @property
    def database(self) -> Database:
        return self.running.state["database"]

    def replicas_serving(self) -> int:
        return sum(guard.serves for guard in self.database.guards[1:])

    def freeze(self) -> None:
        for road in self.roads:
            road.hold_new = True
            road.silence()

    def thaw(self) -> None:
        for road in self.roads:
            road.resume()


@pytest.fixture
async def frozen_soon(cluster: Path) -> AsyncIterator[Cluster]:
    async with replication(cluster, standbys=2) as servers, AsyncExitStack() as stack:
        roads = [await stack.enter_async_context(Proxy(one.dsn()).serve()) for one in servers.standbys]
        settings = settings_for(
            servers.primary.dsn(),
            database_replica_url=" ".join(road.dsn for road in roads),
            pool_min_size=CONNECTIONS,
            pool_max_size=MOST,
            pool_queue_target=0.25,
        )
        await upgrade(settings)
        async with service(settings) as running:
            await until_ready(running)
            cluster_ = Cluster(running, servers, roads)
            await eventually(lambda: cluster_.replicas_serving() == 2)
            yield cluster_


@pytest.mark.slow
async def test_no_read_is_refused_while_both_replicas_are_frozen(frozen_soon: Cluster) -> None:
    client, database = frozen_soon.running.client, frozen_soon.database
    frozen_soon.freeze()
    requests = [
        asyncio.create_task(client.get("/items")) for _ in range(2 * CONNECTIONS)
    ]  # all that there are, and none can be opened any more
    while frozen_soon.replicas_serving():  # they would be shed after POOL_QUEUE_TARGET
        requests.append(asyncio.create_task(client.get("/items")))
        await asyncio.sleep(PACE)
    answers = Counter(answer.status_code for answer in await asyncio.gather(*requests))
    assert set(answers) <= {200, 503}
    # On a slow machine the primary may be short of time for all that come at once; no replica refuses.
    assert answers[503] == sum(database.primary.stats().shed.values())
    assert answers[200] == database.reads["primary"]
    report = (await client.get("/readyz")).json()
    pools = {pool["stats"]["name"]: pool for pool in (await client.get("/pool")).json()["pools"]}
    metrics = (await client.get("/metrics")).text
    frozen_soon.thaw()
    await eventually(lambda: frozen_soon.replicas_serving() == 2)
    assert report["reasons"][0] == "reads go to the primary, not to a replica"
    for name, reason in zip(("replica-1", "replica-2"), report["reasons"][1:], strict=True):
        assert reason in {f"{name} is not read: {obstacle}" for obstacle in OBSTACLES}
        assert pools[name]["replica"]["obstacle"] in OBSTACLES
        labels = f'db_client_connection_pool_name="{name}"'
        assert f"db_replica_serves{{{labels}}} 0.0" in metrics
        assert f'db_replica_standing{{{labels},standing="current"}} 0.0' in metrics
        assert f'db_reads_total{{to="{name}"}}' in metrics
