"""With POOL_MIN_SIZE=0 a server that sleeps while nobody asks is left asleep; the first request wakes it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest
from lifeguard.database import Replica
from lifeguard.operations import readiness
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually
from typing_extensions import override

from packages.lifeguard.tests.inside import service, settings_for

NOT_ABOUT_THE_DATABASE = ("/healthz", "/readyz", "/metrics", "/pool")
ROUNDS = 25  # of asking all of them: many times the interval of each thing that looks from time to time
INTERVAL = 0.02


class Listener(Proxy):
    """A proxy that knows which statements it has passed on: the texts of Parse and Query messages."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn)
        self.statements: list[str] = []

    @override
    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if any(link.to_server is writer for link in self.links):
            self.statements += _statements(data)
        await super()._pass(data, writer)


def _statements(data: bytes) -> Iterator[str]:
    """Of whole messages, as a client writes them."""
    while data:
        kind, at = (b"", 0) if data[0] == 0 else (data[:1], 1)  # the first ones have no kind
        length = int.from_bytes(data[at : at + 4])
        body, data = data[at + 4 : at + length], data[at + length :]
        if kind == b"P":
            yield body.split(b"\0")[1].decode()
        elif kind == b"Q":
            yield body.rstrip(b"\0").decode()


@dataclass
class Sleeper:
    """A service whose pools have closed their last connection, and what leads to its servers."""

    running: Service
    primary: Listener
    replica: Proxy

    def reached(self) -> tuple[int, ...]:
        """What has come to the servers: connections, and data on those that stand."""
        return tuple(n for proxy in (self.primary, self.replica) for n in (proxy.accepted, proxy.asked))

    def is_asleep(self) -> bool:
        pools = [guard.pool for guard in self.running.state["database"].guards]
        watches = [g.lag for g in self.running.state["database"].guards if isinstance(g, Replica)]
        return (
            not any(pool.get_size() for pool in pools)
            and not (self.primary.links + self.replica.links)
            and all(watch.standing == "unknown" for watch in watches)
        )

    async def status(self, path: str) -> int:
        return (await self.running.client.get(path)).status_code

    async def is_left_alone(self) -> bool:
        """Whether nothing comes to the servers while everything that is no request is asked for."""
        before = self.reached()
        for _ in range(ROUNDS):
            answers = await asyncio.gather(*map(self.status, NOT_ABOUT_THE_DATABASE))
            assert set(answers) == {httpx.codes.OK}
        return self.reached() == before


@pytest.fixture
async def sleeper(migrated_database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sleeper]:
    """The replica is the same server: what matters is who is asked."""
    monkeypatch.setattr(readiness, "_LOOK_AGAIN_WHEN_READY", INTERVAL)
    primary = Listener(migrated_database)
    async with primary.serve(), Proxy(migrated_database).serve() as replica:
        settings = settings_for(
            primary.dsn,
            database_replica_url=replica.dsn,
            pool_min_size=0,
            pool_idle_timeout=0.1,
            pool_health_check_interval=INTERVAL,
        )
        async with service(settings) as running:
            await until_ready(running)
            sleeper = Sleeper(running, primary, replica)
            await eventually(sleeper.is_asleep)
            yield sleeper


async def test_nothing_reaches_the_servers_while_nobody_asks(sleeper: Sleeper) -> None:
    assert await sleeper.is_left_alone()
    assert (await sleeper.running.client.get("/readyz")).json() == {
        "status": "ready",
        "reasons": [],
        "schema": "current",
    }


async def test_the_first_request_wakes_everything_and_then_all_sleep_again(sleeper: Sleeper) -> None:
    pool = sleeper.running.state["database"].primary
    lent = pool.stats().borrowed
    created = await sleeper.running.client.post("/items", json={"name": "first"})
    assert created.status_code == httpx.codes.CREATED
    await eventually(lambda: pool.stats().borrowed > lent + 1)  # readiness has looked, too
    await eventually(sleeper.is_asleep)
    assert await sleeper.is_left_alone()


async def test_the_first_request_costs_a_connection_and_its_own_statements(
    migrated_database: str,
) -> None:
    """Readiness, whose interval is as it comes, looks later, and nothing else asks anything."""
    proxy = Listener(migrated_database)
    async with proxy.serve():
        settings = settings_for(proxy.dsn, pool_min_size=0, pool_idle_timeout=0.1)
        async with service(settings) as running:
            await until_ready(running)
            sleeper = Sleeper(running, proxy, proxy)
            for method, path, own in (
                ("GET", "/items", ["SELECT"]),
                ("POST", "/items", ["BEGIN", "SELECT", "COMMIT"]),
            ):
                await eventually(sleeper.is_asleep)
                proxy.statements.clear()
                accepted = proxy.accepted
                answer = await running.client.request(method, path, json={"name": "first"})
                assert answer.is_success
                assert proxy.accepted == accepted + 1
                session, *asked = proxy.statements
                assert session.startswith("BEGIN; SET tcp_keepalives_idle")  # what makes the session, at once
                assert [text.split()[0].strip(";") for text in asked] == own


async def test_reads_wake_the_replica_without_waiting_for_it(sleeper: Sleeper) -> None:
    replica = sleeper.running.state["database"].guards[1]
    sleeper.replica.hold_new = True
    assert await sleeper.status("/items") == httpx.codes.OK  # from the primary
    sleeper.replica.resume()
    served = replica.pool.stats().borrowed

    async def reads_from_it() -> bool:
        assert await sleeper.status("/items") == httpx.codes.OK
        return replica.pool.stats().borrowed > served

    await eventually(reads_from_it)  # it falls asleep again after 0.1 s, and is asked for its lag before that


async def test_a_server_that_is_gone_when_the_first_request_comes_is_told_and_found_again(
    migrated_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_LOOK_AGAIN_WHEN_READY", INTERVAL)
    proxy = Listener(migrated_database)
    async with proxy.serve():
        settings = settings_for(proxy.dsn, pool_min_size=0, pool_max_size="auto", pool_idle_timeout=0.1)
        async with service(settings) as running:
            await until_ready(running)
            sleeper = Sleeper(running, proxy, proxy)
            await eventually(sleeper.is_asleep)
            proxy.refuse_new = True
            assert (await running.client.get("/readyz")).json()[
                "status"
            ] == "ready"  # as far as anybody knows
            answer = await running.client.get("/items")
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert answer.json()["type"] == "/problems/database-unavailable"
            assert "retry-after" in answer.headers
            probe = await running.client.get("/readyz")
            assert (probe.status_code, probe.json()["status"]) == (httpx.codes.OK, "degraded")
            proxy.resume()

            async def served() -> bool:
                return await sleeper.status("/items") == httpx.codes.OK

            await eventually(served)
            await eventually(sleeper.is_asleep)
            assert await sleeper.is_left_alone()
