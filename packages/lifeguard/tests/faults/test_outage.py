"""The whole service under load while its server stops, restarts, crashes and loses sessions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import pytest
from lifeguard.database import BreakerState
from lifeguard.database.migrations import upgrade
from lifeguard.development.embedded import StopMode
from lifeguard.testing.plugin import run
from lifeguard.testing.servers import PostgresServer, copy_cluster, server_directory
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.pool.balance import assert_balanced, at_rest

# How soon all is well again, and how quick a refusal is, `bench.outage` measures.


@pytest.fixture(scope="module")
def own_server(cluster: Path) -> Iterator[PostgresServer]:
    """The module's own, with the service's schema."""
    with server_directory() as directory:
        server = PostgresServer(copy_cluster(cluster, directory / "own"))
        run(server.start())
        run(upgrade(settings_for(server.dsn())))
        yield server
        server.close()


@pytest.fixture
async def server(own_server: PostgresServer) -> PostgresServer:
    await own_server.start()
    return own_server


@pytest.fixture
async def serving(server: PostgresServer) -> AsyncIterator[Service]:
    """Five connections, all of them open."""
    async with serving_with(server) as running:
        yield running


@pytest.fixture
async def patient(server: PostgresServer) -> AsyncIterator[Service]:
    """The same; it waits for the end of an outage for longer than any here takes."""
    async with serving_with(server, pool_outage_patience=60, pool_acquire_timeout=60) as running:
        yield running


@asynccontextmanager
async def serving_with(server: PostgresServer, **values: object) -> AsyncIterator[Service]:
    async with service(
        settings_for(server.dsn(), **{"pool_min_size": 5, "pool_acquire_timeout": 20, **values})
    ) as running:
        await until_ready(running)
        await eventually(lambda: running.state["database"].primary.get_size() == 5)
        yield running


@dataclass(frozen=True)
class Answer:
    status: int
    problem: str
    retry_after: str
    began: float
    seconds: float
    writes: bool


class Load:
    """Clients who read and write, and ask again a few milliseconds after each answer."""

    def __init__(self, service: Service) -> None:
        self._client = service.client
        self.answers: list[Answer] = []

    @asynccontextmanager
    async def on(self, clients: int = 12) -> AsyncIterator["Load"]:
        """Load for the block. Whoever is being served at its end is waited for."""
        over = asyncio.Event()
        asking = [asyncio.create_task(self._ask(over, writes=bool(n % 2))) for n in range(clients)]
        try:
            yield self
        finally:
            over.set()
            await asyncio.gather(*asking)

    async def answered(self, times: int, wanted: Callable[[Answer], bool]) -> list[Answer]:
        """Wait for so many answers from now on of which `wanted` is true, and give all that came."""
        begin = len(self.answers)
        await eventually(lambda: sum(map(wanted, self.answers[begin:])) >= times)
        return self.answers[begin:]

    async def _ask(self, over: asyncio.Event, *, writes: bool) -> None:
        loop = asyncio.get_running_loop()
        while not over.is_set():
            began = loop.time()
            if writes:
                answer = await self._client.post("/items", json={"name": "x"}, timeout=60)
            else:
                answer = await self._client.get("/items", timeout=60)
            problem = answer.json()["type"] if answer.is_error else ""
            retry_after = answer.headers.get("retry-after", "")
            seconds = loop.time() - began
            self.answers.append(Answer(answer.status_code, problem, retry_after, began, seconds, writes))
            await asyncio.sleep(0.005)


def well(answer: Answer) -> bool:
    return answer.status < 300


def ill(answer: Answer) -> bool:
    return answer.status == 503


async def assert_all_is_well_again(serving: Service, load: Load) -> None:
    """Once the breaker has closed and the sessions are there again, no request fails."""
    pool = serving.state["database"].primary

    async def recovered() -> bool:
        return breaker_of(serving)[0] is BreakerState.CLOSED and pool.get_size() == pool.get_min_size()

    await eventually(recovered)
    recovered_at = asyncio.get_running_loop().time()
    later = await load.answered(200, well)
    assert not [answer for answer in later if ill(answer) and answer.began > recovered_at]


def assert_every_answer_is_one_of_the_two(serving: Service, load: Load) -> None:
    """Success, or 503 with the hour to come back; nobody waits in vain and nobody sees a 500."""
    for answer in load.answers:
        assert answer.seconds < serving.state["settings"].pool_acquire_timeout
        if not well(answer):
            # A write whose COMMIT was under way is not known to have failed.
            assert answer.status == 503
            assert answer.problem in {"/problems/database-unavailable", "/problems/commit-unknown"}
            assert answer.retry_after.isdigit() == (answer.problem == "/problems/database-unavailable")


async def assert_nothing_is_lost(serving: Service, server: PostgresServer) -> None:
    """Nothing in use, the minimum there, and the server sees what the pool sees."""
    pool = serving.state["database"].primary
    await eventually(lambda: at_rest(pool.stats()) and pool.get_size() >= pool.get_min_size())
    assert_balanced(pool.stats())

    async def server_has_those_of_the_pool() -> bool:
        return len(await server.backends(application_name="ledger")) == pool.get_size()

    await eventually(server_has_those_of_the_pool)
    assert (await serving.client.get("/readyz")).json()["status"] == "ready"


def breaker_of(serving: Service) -> tuple[BreakerState, int]:
    """Its state, and how often it has opened."""
    breaker = serving.state["database"].breaker
    return breaker.state, breaker.transitions["open"]


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_stopped_server_is_refused_for_at_once_and_used_when_it_is_back(
    serving: Service, server: PostgresServer, mode: StopMode
) -> None:
    load = Load(serving)
    async with load.on():
        await load.answered(50, well)
        stopping = asyncio.create_task(server.stop(mode))
        await eventually(lambda: breaker_of(serving)[0] is BreakerState.OPEN)
        await stopping
        refused = await load.answered(200, ill)
        later = [answer for answer in refused if answer.began > refused[0].began + refused[0].seconds]
        assert {answer.problem for answer in later} == {"/problems/database-unavailable"}
        # Nobody waited for anything.
        assert (
            median(answer.seconds for answer in later) < serving.state["settings"].pool_acquire_timeout / 10
        )
        ready = await serving.client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (httpx.codes.OK, "degraded")
        await server.start()
        await assert_all_is_well_again(serving, load)
    assert_every_answer_is_one_of_the_two(serving, load)
    await assert_nothing_is_lost(serving, server)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_under_load_costs_no_read_and_only_writes_under_way(
    patient: Service, server: PostgresServer, mode: StopMode
) -> None:
    """A write of this service is not repeated: it asks for a transaction, and does not say how to run it."""
    load = Load(patient)
    async with load.on():
        await load.answered(50, well)
        await server.stop(mode)
        stopped = asyncio.get_running_loop().time()
        await server.start()
        await assert_all_is_well_again(patient, load)
    assert breaker_of(patient) == (BreakerState.CLOSED, 0)
    assert all(well(answer) for answer in load.answers if not answer.writes or answer.began > stopped)
    assert_every_answer_is_one_of_the_two(patient, load)
    await assert_nothing_is_lost(patient, server)


async def test_a_crashed_backend_opens_the_breaker_once_at_most(
    serving: Service, server: PostgresServer
) -> None:
    """The server ends all sessions, recovers, and comes back by itself."""
    pool = serving.state["database"].primary
    load = Load(serving)
    async with load.on():
        await load.answered(50, well)
        sessions = await server.backends(application_name="ledger")
        closed = sum(pool.stats().closed.values()) + len(sessions)
        server.crash_backend(sessions[0]["pid"])
        # Whether a request falls into the moment until it has recovered is chance.
        await eventually(lambda: sum(pool.stats().closed.values()) >= closed)
        await assert_all_is_well_again(serving, load)
    assert breaker_of(serving)[1] <= 1
    assert_every_answer_is_one_of_the_two(serving, load)
    await assert_nothing_is_lost(serving, server)


async def test_the_loss_of_all_idle_sessions_costs_no_request(
    serving: Service, server: PostgresServer
) -> None:
    assert await server.kill_backends(application_name="ledger") >= 5
    load = Load(serving)
    async with load.on():
        await load.answered(50, lambda _: True)
    assert all(map(well, load.answers))
    assert breaker_of(serving) == (BreakerState.CLOSED, 0)
    await assert_nothing_is_lost(serving, server)
