"""The probes: what they say of a database that is there, not there, behind, and gone again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from lifeguard.database import PoolOversized, ReadConnection, schema
from lifeguard.database.fleet_watch import Fleet
from lifeguard.database.migrations import upgrade
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.proxy import Proxy
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service, until_ready
from lifeguard.testing.waiting import eventually

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.sample.settings import Settings
from packages.lifeguard.tests.stopwatch import Stopwatch
from packages.lifeguard.tests.web.conftest import Log

SECRET = "canary-hush-hush"
NOWHERE = f"postgresql://nobody:{SECRET}@127.0.0.1:1/x"


async def readiness(running: Service) -> tuple[int, str]:
    answer = await running.client.get("/readyz")
    return answer.status_code, answer.json()["status"]


async def reasons_of(running: Service) -> list[str]:
    reasons: list[str] = (await running.client.get("/readyz")).json()["reasons"]
    return reasons


class TestWithoutADatabase:
    async def test_it_is_alive_and_not_ready_and_says_why(self) -> None:
        async with service(settings_for(NOWHERE)) as running:
            assert (await running.client.get("/healthz")).json() == {"status": "alive"}

            async def refused() -> bool:
                return "refused" in (await running.client.get("/readyz")).text

            await eventually(refused)
            answer = await running.client.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["status"] == "not ready"
            assert SECRET not in answer.text

    async def test_its_requests_are_answered_as_problems(self) -> None:
        async with service(settings_for(NOWHERE)) as running:

            async def told() -> bool:
                return "/problems/database-unavailable" in (await running.client.get("/items")).text

            await eventually(told)
            answer = await running.client.get("/items")
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert SECRET not in answer.text

    async def test_it_becomes_ready_unaided_once_the_server_is_there(
        self, server_factory: ServerFactory, log: Log
    ) -> None:
        server = await server_factory()
        url = server.dsn()
        await upgrade(Settings.model_validate({"database_url": url}))
        await server.stop()
        async with service(settings_for(url, log_level="info")) as running:
            assert await readiness(running) == (503, "not ready")
            await server.start()
            await until_ready(running)
            assert await readiness(running) == (200, "ready")
        said = [line["status"] for line in log() if line["event"] == "readiness"]
        assert (said[0], said[-1]) == ("not ready", "ready")


class TestInProduction:
    """Who asks may be anybody: what is wrong is a class of faults, and the driver's words are for the log."""

    @pytest.fixture
    def told(self, log: Log) -> Iterator[list[str]]:
        """What was answered; the log has had more to say meanwhile."""
        answers: list[str] = []
        yield answers
        for inside in ("127.0.0.1", "nobody", "Error", "connect", "database_of_ours", "revision"):
            assert inside not in "".join(answers).replace("no connection: ", "")

    @pytest.mark.parametrize(
        ("url", "kind", "logged"),
        [
            (NOWHERE, "unreachable", "refused"),
            ("postgresql://nobody:x@nobody.invalid/x", "unknown host", "Name or service not known"),
            ("postgresql://nobody:x@{server}/x", "authentication", 'user "nobody"'),
            ("{login}@{server}/database_of_ours", "unknown database", "database_of_ours"),
        ],
    )
    async def test_a_database_that_was_never_reached(  # noqa: PLR0917 - a table
        self, postgres: PostgresServer, log: Log, told: list[str], url: str, kind: str, logged: str
    ) -> None:
        login, server = postgres.dsn().rpartition("/")[0].split("@")
        settings = settings_for(
            url.format(login=login, server=server), app_env="production", log_level="info"
        )
        lines: list[dict[str, Any]] = []
        async with service(settings) as running:

            async def classified() -> bool:
                answer = await running.client.get("/readyz")
                lines.extend(log())
                return list(answer.json()["reasons"]) == [f"the database has not been reached yet: {kind}"]

            await eventually(classified)
            for path in ("/readyz", "/items", "/metrics", "/pool", "/pool/leases", "/healthz"):
                answer = await running.client.get(path)
                told.append(f"{answer.headers}{answer.text}" if path != "/metrics" else _texts(answer.text))
            lines.extend(log())
        assert any(logged in str(line) for line in lines if line["event"] == "readiness")

    async def test_a_database_that_goes_away(
        self, server_factory: ServerFactory, log: Log, told: list[str]
    ) -> None:
        server = await server_factory()
        settings = settings_for(server.dsn(), app_env="production", log_level="info")
        await upgrade(settings)
        async with service(settings) as running:
            await until_ready(running)
            await server.stop("immediate")

            async def degraded() -> bool:
                return await reasons_of(running) == ["no connection: unreachable"]

            await eventually(degraded)
            told.extend([(await running.client.get(path)).text for path in ("/readyz", "/items", "/pool")])

    @pytest.mark.skipif(schema.head_revision(Settings.migrations) is None, reason="there is no schema yet")
    async def test_a_schema_that_is_behind_and_a_server_that_is_too_small(
        self, database_url: str, told: list[str]
    ) -> None:
        async with service(settings_for(database_url, app_env="production")) as running:

            async def behind() -> bool:
                return await reasons_of(running) == ["the schema is behind"]

            await eventually(behind)
            running.state["database"].oversized = PoolOversized("127.0.0.1 has 97")
            answer = await running.client.get("/readyz")
            assert answer.json()["reasons"] == ["the pools may ask for more sessions than the server has"]
            told.append(answer.text)


def _texts(metrics: str) -> str:
    """The values of labels; what is around them has names like `db_client_connection_count`."""
    return " ".join(
        part for line in metrics.splitlines() if line[:1] != "#" for part in line.split('"')[1::2]
    )


@pytest.mark.skipif(schema.head_revision(Settings.migrations) is None, reason="there is no schema yet")
class TestSchema:
    async def test_that_is_behind_is_not_ready_until_it_is_migrated(self, database_url: str) -> None:
        settings = settings_for(database_url)
        async with service(settings) as running:

            async def behind() -> bool:
                return "not migrated yet" in (await running.client.get("/readyz")).text

            await eventually(behind)
            assert await readiness(running) == (503, "not ready")
            await upgrade(settings)
            await until_ready(running)

    @pytest.mark.parametrize(
        ("app_env", "status", "said"), [("production", 200, ""), ("development", 503, "another checkout")]
    )
    async def test_of_another_version_serves_a_rollout_and_is_refused_in_development(
        self, migrated_database: str, app_env: str, status: int, said: str
    ) -> None:
        connection = await asyncpg.connect(migrated_database)
        await connection.execute("UPDATE alembic_version SET version_num = 'of_another_checkout'")
        await connection.close()
        async with service(settings_for(migrated_database, app_env=app_env)) as running:

            async def seen() -> bool:
                return bool((await running.client.get("/readyz")).json()["schema"] == "ahead")

            await eventually(seen)
            answer = await running.client.get("/readyz")
            assert answer.status_code == status
            assert said in "".join(answer.json()["reasons"])

    async def test_that_is_current_is_said_to_be(self, migrated_database: str) -> None:
        async with service(settings_for(migrated_database)) as running:
            await until_ready(running)
            assert (await running.client.get("/readyz")).json()["schema"] == "current"


class TestWatch:
    async def test_refuses_a_server_that_turns_out_too_small(self, migrated_database: str) -> None:
        async with service(settings_for(migrated_database)) as running:
            await until_ready(running)
            running.state["database"].oversized = PoolOversized("too many for it")
            answer = await running.client.get("/readyz")
            assert (answer.status_code, answer.json()["reasons"]) == (503, ["too many for it"])

    async def test_survives_an_error_that_nobody_foresaw(
        self, migrated_database: str, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original, failed = schema.schema_state, asyncio.Event()

        async def fail_once(connection: ReadConnection, migrations: Path) -> schema.SchemaState:
            if failed.is_set():
                return await original(connection, migrations)
            failed.set()
            raise ZeroDivisionError

        monkeypatch.setattr(schema, "schema_state", fail_once)
        async with service(settings_for(migrated_database)) as running:
            await until_ready(running)
        assert failed.is_set()
        assert "readiness_look_failed" in {line["event"] for line in log()}


class TestLater:
    @pytest.mark.parametrize(("fails", "status"), [(False, 200), (True, 503)])
    async def test_a_database_that_goes_away_is_degraded_and_comes_back(
        self, server_factory: ServerFactory, fails: bool, status: int
    ) -> None:
        server = await server_factory()
        settings = settings_for(server.dsn(), readyz_fail_when_degraded=fails)
        await upgrade(settings)
        async with service(settings) as running:
            await until_ready(running)
            await server.stop("immediate")

            async def degraded() -> bool:
                return await readiness(running) == (status, "degraded")

            await eventually(degraded)
            await running.state["readiness"]._look()  # at a database that is gone: says nothing new
            assert await degraded()
            await server.start()
            await until_ready(running)

            async def ready() -> bool:
                return await readiness(running) == (200, "ready")

            await eventually(ready)

    async def test_a_primary_that_takes_no_writes_is_degraded_and_goes_on_reading(
        self, server_factory: ServerFactory
    ) -> None:
        server = await server_factory()
        await upgrade(settings_for(server.dsn()))
        async with service(settings_for(server.dsn(), pool_validate_after=0)) as running:
            await until_ready(running)
            await server.set("default_transaction_read_only", "on")

            async def told() -> bool:
                assert (await running.client.get("/items")).status_code == 200
                answer = await running.client.get("/readyz")
                said = answer.json()
                return (answer.status_code, said["status"], said["reasons"]) == (
                    200,
                    "degraded",
                    ["no writable server"],
                )

            await eventually(told)
            (pool,) = (await running.client.get("/pool")).json()["pools"]
            assert pool["stats"]["fault"] == "no_writable_server"
            running.state["history"].take()
            assert running.state["history"].since()[-1]["pools"][0]["fault"] == "no_writable_server"
            await server.set("default_transaction_read_only", "off")

            async def ready() -> bool:
                return await readiness(running) == (200, "ready")

            await eventually(ready)

    async def test_a_server_that_never_took_writes_is_not_ready(self, server_factory: ServerFactory) -> None:
        server = await server_factory(default_transaction_read_only="on")
        async with service(settings_for(server.dsn())) as running:

            async def told() -> bool:
                answer = await running.client.get("/readyz")
                return answer.status_code == 503 and "no writable server" in answer.text

            await eventually(told)

    async def test_a_replica_that_is_not_read_is_told_and_takes_nobody_out(
        self, migrated_database: str
    ) -> None:
        async with Proxy(migrated_database).serve() as road:
            settings = settings_for(migrated_database, database_replica_url=road.dsn)
            async with service(settings) as running:
                await until_ready(running)

                async def reasons() -> tuple[str, list[str]]:
                    answer = (await running.client.get("/readyz")).json()
                    return answer["status"], answer["reasons"]

                async def goes_to_the_replica() -> bool:
                    return running.state["database"].guards[1].serves and await reasons() == ("ready", [])

                async def goes_to_the_primary() -> bool:
                    words = "reads go to the primary, not to the replica: it does not answer"
                    return await reasons() == ("ready", [words])

                await eventually(goes_to_the_replica)
                road.hold_new = True
                road.silence()
                await eventually(goes_to_the_primary)
                road.resume()
                await eventually(goes_to_the_replica)

    async def test_a_probe_does_not_wait_for_a_connection(self, serving: Service) -> None:
        database = serving.state["database"]
        held = [await database.primary.acquire() for _ in range(database.primary.get_max_size())]
        waiting = asyncio.create_task(serving.client.get("/items"))
        await eventually(lambda: database.primary.stats().waiting)
        async with Stopwatch() as watch:
            for path in ("/healthz", "/readyz", "/metrics", "/pool"):
                assert (await serving.client.get(path)).status_code == 200
        assert watch.seconds < 1
        for lease in held:
            await database.primary.release(lease)
        assert (await waiting).status_code == 200

    async def test_a_draining_service_is_not_ready_and_alive(self, migrated_database: str) -> None:
        async with service(settings_for(migrated_database)) as running:
            await until_ready(running)
            running.state["drain"].begin()
            assert await readiness(running) == (503, "draining")
            assert (await running.client.get("/healthz")).status_code == 200


class TestMetrics:
    async def test_in_prometheus_text(self, serving: Service) -> None:
        answer = await serving.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'db_client_connection_max{db_client_connection_pool_name="primary"} 5.0' in answer.text

    @pytest.mark.parametrize(
        "accept",
        [
            *(
                "application/openmetrics-text;version=abc",
                "text/plain;version=abc",
                "text/plain;version=1.x.0",
            ),
            *("application/openmetrics-text;version=1.0.0.0.0", "application/openmetrics-text;version="),
            *(
                f"application/openmetrics-text;version={'9' * 5000}",
                "application/openmetrics-text;version=\xb2",
            ),
            *(
                "application/openmetrics-text;version=1.0.0;escaping=none",
                ";;;,,,=;version=;=",
                "\xff",
                "*/*;q=x",
            ),
        ],
    )
    async def test_in_some_format_whatever_is_asked_for(self, serving: Service, accept: str) -> None:
        answer = await serving.client.get("/metrics", headers={b"Accept": accept.encode("latin-1")})
        assert answer.status_code == httpx.codes.OK
        assert "db_client_connection_count" in answer.text

    async def test_in_openmetrics_when_asked_for(self, serving: Service) -> None:
        accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
        answer = await serving.client.get("/metrics", headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


class TestHead:
    """HEAD answers wherever GET does, as GET without the body."""

    @pytest.mark.parametrize(
        "path", ["/healthz", "/readyz", "/metrics", "/pool", "/pool/live", "/items", "/items/7", "/nowhere"]
    )
    async def test_is_get_without_the_body(self, serving: Service, path: str) -> None:
        got, asked = await serving.client.get(path), await serving.client.head(path)
        assert (asked.status_code, asked.content) == (got.status_code, b"")
        assert asked.headers["content-type"] == got.headers["content-type"]

    async def test_of_a_stream_ends(self, serving: Service) -> None:
        answer = await serving.client.head("/pool/live/events")
        assert answer.status_code == httpx.codes.OK
        assert answer.headers["content-type"].startswith("text/event-stream")

    async def test_is_counted_as_what_it_is(self, serving: Service) -> None:
        await serving.client.head("/items")
        lines = (await serving.client.get("/metrics")).text.splitlines()
        assert any(
            "http_requests_total" in line and 'handler="/items",method="HEAD"' in line for line in lines
        )


async def test_a_process_without_a_place_at_the_server_is_not_ready_and_says_so(
    server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sessions to share, so one place, and it is taken."""
    monkeypatch.setattr(Fleet, "pace", 20.0)
    server = await server_factory(max_connections="43", superuser_reserved_connections="3")
    settings = settings_for(
        server.dsn(), pool_instances="auto", pool_max_size="auto", pool_headroom=0.05, ops_port=None
    )
    seat = f"{settings.service_name}#00000a seat 1"
    other = await asyncpg.connect(server.dsn(), server_settings={"application_name": seat})
    async with service(settings) as running:

        async def fleet() -> dict[str, Any]:
            (pool,) = (await running.client.get("/pool")).json()["pools"]
            told: dict[str, Any] = pool["fleet"]
            return told

        async def stands(standing: str) -> bool:
            return bool((await fleet())["standing"] == standing)

        await eventually(lambda: stands("full"))
        assert await readiness(running) == (503, "not ready")
        assert await reasons_of(running) == ["the server has no place for this process"]
        assert (await fleet())["places"] == 1
        await other.close()
        await eventually(lambda: stands("member"))
        assert await reasons_of(running) != ["the server has no place for this process"]
        assert [(await fleet())[name] for name in ("instances", "share", "claim", "places")] == [1] * 4
        metrics = (await running.client.get("/metrics")).text
        for name in ("instances", "share", "places"):
            assert f'db_pool_{name}{{db_client_connection_pool_name="primary"}} 1.0\n' in metrics
