"""The profiles of deploy/profiles: computed by `sizing`, and a service serves with each what it is for."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from fastapi import APIRouter
from lifeguard.testing import standby
from lifeguard.testing.pgbouncer import PgBouncer
from lifeguard.testing.processes import running
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.standby import Replication
from lifeguard.testing.waiting import eventually
from lifeguard.web import ReadConnectionDep, TransactionDep, lane

from app.settings import Settings
from deploy.profiles import GUIDE, HERE, PROFILES, arguments, stale, variables
from tests.inside import service
from tests.processes import ROOT

NAMES = [path.stem for path in PROFILES]
READ, WRITE = "/profiled", "/profiled"
TABLE = "CREATE TABLE profiled (id bigserial PRIMARY KEY)"
TOKEN = "X-Consistency-Token"

routes = APIRouter()
modules = [
    APIRouter(prefix=f"/{name}", dependencies=[lane(name, at_most=at_most)])
    for name, at_most in {"catalogue": 6, "billing": 4, "reports": 2}.items()
]


@routes.get(READ)
async def count(connection: ReadConnectionDep) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM profiled"))


@routes.post(WRITE)
async def write(transaction: TransactionDep) -> int:
    return int(await transaction.fetchval("INSERT INTO profiled DEFAULT VALUES RETURNING id"))


for module in modules:
    module.get("")(count)
    routes.include_router(module)

Start = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """A service with a profile in its environment, and what the deployment adds: where the servers are."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)

    @asynccontextmanager
    async def start(profile: str, **deployment: str) -> AsyncIterator[Service]:
        for name, value in {**variables(HERE / f"{profile}.env"), **deployment}.items():
            monkeypatch.setenv(name, value)
        settings = Settings.load()
        assert settings.warnings == ()  # of variables that it does not know
        async with asyncpg_connection(settings) as connection:
            await connection.execute(TABLE)
        async with service(settings, routes=routes) as running:
            assert running.state["database"].primary.get_max_size() == settings.pool_max_size
            yield running

    return start


@asynccontextmanager
async def asyncpg_connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    assert settings.database_url is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value(), statement_cache_size=0)
    try:
        yield connection
    finally:
        await connection.close()


async def answered(running: Service, method: str, path: str, **headers: str) -> httpx.Response:
    """The answer, of a service that may refuse before: no machine of tests is what the profile is for."""

    async def served() -> httpx.Response | None:
        answer = await running.client.request(method, path, headers=headers)
        if answer.status_code in {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT}:
            return None
        answer.raise_for_status()
        return answer

    found = await eventually(served, 60)
    assert found is not None
    return found


def test_what_sizing_computes_is_in_the_profiles_and_in_the_guide() -> None:
    """`python -m deploy.profiles` writes it."""
    assert NAMES
    assert stale() == []


@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
def test_a_profile_sets_each_variable_once_and_is_in_the_guide(profile: Path) -> None:
    lines = profile.read_text(encoding="utf-8").splitlines()
    names = [line.partition("=")[0] for line in lines if line and not line.startswith("#")]
    assert Counter(names).most_common(1)[0][1] == 1
    assert set(names) <= {name.upper() for name in Settings.model_fields}
    guide = GUIDE.read_text(encoding="utf-8")
    assert f"(../deploy/profiles/{profile.name})" in guide
    assert f"$ python -m app sizing {arguments(profile)}\n" in guide


@pytest.mark.parametrize("profile", ["single-region", "write-heavy"])
async def test_reads_and_writes_are_served(start: Start, migrated_database: str, profile: str) -> None:
    async with start(profile, DATABASE_URL=migrated_database) as running:
        await until_ready(running)
        assert (await answered(running, "POST", WRITE)).json() >= 1
        assert (await answered(running, "GET", READ)).json() >= 1


async def test_high_concurrency_serves_a_crowd_through_a_pooler(
    start: Start, migrated_database: str, pgbouncer: Callable[..., AbstractAsyncContextManager[PgBouncer]]
) -> None:
    async with pgbouncer(migrated_database) as front:
        url = front.url(migrated_database)
        async with start("high-concurrency", DATABASE_URL=url) as running:
            answers = await asyncio.gather(*(answered(running, "GET", READ) for _ in range(20)))
            assert running.state["database"].primary.pooler is not None
    assert [answer.json() for answer in answers] == [0] * 20


@pytest.fixture(scope="module")
async def pair(cluster: Path) -> AsyncIterator[Replication]:
    async with standby.replication(cluster) as pair:
        yield pair


@pytest.mark.parametrize("profile", ["read-heavy", "several-regions"])
async def test_reads_are_a_standbys_and_see_what_their_client_has_written(
    start: Start, pair: Replication, profile: str
) -> None:
    """With a deadline, as clients far away have one."""
    async with pair.primary.connect() as admin:
        await admin.execute("DROP TABLE IF EXISTS profiled")
    servers = {"DATABASE_URL": pair.primary.dsn(), "DATABASE_REPLICA_URL": pair.standby.dsn()}
    async with start(profile, **servers) as running:

        async def standby_has_read() -> bool:
            await answered(running, "GET", READ)
            return 'db_reads_total{to="replica"} 0.0' not in (await running.client.get("/metrics")).text

        await eventually(standby_has_read, 60)
        written = await answered(running, "POST", WRITE, **{"X-Request-Timeout": "60"})
        read = await answered(running, "GET", READ, **{TOKEN: written.headers[TOKEN]})
        assert read.json() >= 1


async def test_modules_have_ceilings(start: Start, migrated_database: str) -> None:
    async with start("modules", DATABASE_URL=migrated_database) as running:
        for module in modules:
            assert (await answered(running, "GET", module.prefix)).json() == 0
        lanes = (await running.client.get("/pool")).json()["pools"][0]["stats"]["lanes"]
    ceilings = {one["name"]: one["at_most"] for one in lanes}
    assert ceilings["reports"] == 2
    assert ceilings["billing"] == 4


async def test_a_service_among_many_stays_within_the_limit_of_its_role(
    start: Start, migrated_database: str, postgres: PostgresServer
) -> None:
    """The one that the profile names."""
    name = migrated_database.rpartition("/")[2]
    async with postgres.connect() as admin:
        await admin.execute("CREATE ROLE orders LOGIN CONNECTION LIMIT 39 PASSWORD 'x'")
        await admin.execute(f"GRANT ALL ON DATABASE {name} TO orders")
    async with postgres.connect(name) as admin:
        await admin.execute("GRANT ALL ON SCHEMA public TO orders")
    url = f"postgresql://orders:x@127.0.0.1:{postgres.port}/{name}"
    try:
        async with start("many-services", DATABASE_URL=url) as running:
            assert (await answered(running, "POST", WRITE)).json() >= 1
            assert running.state["database"].oversized is None
    finally:
        async with postgres.connect(name) as admin:
            await admin.execute("DROP OWNED BY orders")
            await admin.execute("DROP ROLE orders")


async def test_serverless_keeps_nothing_open_and_serves_through_a_pooler(
    start: Start, migrated_database: str, pgbouncer: Callable[..., AbstractAsyncContextManager[PgBouncer]]
) -> None:
    async with pgbouncer(migrated_database) as front:
        url = front.url(migrated_database)
        async with start("serverless", DATABASE_URL=url) as running:
            pool = running.state["database"].primary
            assert (pool.get_min_size(), pool.get_max_size()) == (0, 1)
            assert (await answered(running, "POST", WRITE)).json() >= 1


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES, ids=NAMES)
async def test_the_command_line_serves_with_it(
    profile: Path, migrated_database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As a process of its own, with its environment alone; through a pooler where it wants one."""
    async with AsyncExitStack() as stack:
        url = migrated_database
        if "# through a pooler" in profile.read_text(encoding="utf-8"):
            front = await stack.enter_async_context(request.getfixturevalue("pgbouncer")(url))
            url = front.url(url)
        settings = {**variables(profile), "DATABASE_URL": url, "LOG_FORMAT": "json"}
        command = ["-m", "app", "serve"]
        process = await stack.enter_async_context(
            running(command, cwd=tmp_path, variables={"PYTHONPATH": str(ROOT), **settings})
        )
        await eventually(lambda: process.answers("/readyz"), 60)
        sizes = (await process.get("/pool")).json()["pools"][0]["stats"]
        assert sizes["max_size"] == int(settings["POOL_MAX_SIZE"])
        assert await process.end() == 0
    assert "not a variable of this service" not in process.output
