"""What the doctor finds on servers in different states."""

from contextlib import AsyncExitStack
from datetime import date

import asyncpg
import pytest
from lifeguard.database import MigrationError
from lifeguard.database.schema import SchemaState
from lifeguard.operations.checks import examination, schema
from lifeguard.operations.checks.connection import judge_clock, judge_version
from lifeguard.operations.checks.examination import CHECKS
from lifeguard.operations.checks.finding import Finding, Level, Result, as_json, summary
from lifeguard.operations.checks.server import Check, Server, identifier, size, span
from lifeguard.operations.checks.upkeep import Ages, judge_ages
from lifeguard.operations.doctor import sizing_report
from lifeguard.testing.plugin import ServerFactory
from lifeguard.testing.servers import PostgresServer, unused_port

from packages.lifeguard.tests.doctor.reports import report
from packages.lifeguard.tests.inside import settings_for


def nowhere() -> str:
    return f"postgresql://somebody:topsecret@127.0.0.1:{unused_port()}/x"


async def test_all_is_well(migrated_database: str) -> None:
    found = await report(migrated_database)
    assert {finding.level for finding in found.values() if finding.check != "statements"} == {"ok"}
    assert {finding.check for finding in found.values() if finding.on == "primary"} == {
        check.name for check in CHECKS if "primary" in check.roles
    }
    assert "PostgreSQL 18" in found["primary server"].finding
    assert "read-write" in found["primary server"].finding
    assert found["primary sizing"].finding.startswith("1 x 20 = 20 ")
    assert "of 197 sessions" in found["primary sizing"].finding


@pytest.mark.parametrize(
    ("ops_port", "said"), [(8001, "on port 8001 of 127.0.0.1 (OPS_PORT)"), (None, "OPS_PORT is not set")]
)
async def test_says_where_operators_ask(ops_port: int | None, said: str) -> None:
    assert said in (await report(nowhere(), ops_port=ops_port))["service operators"].finding


@pytest.mark.parametrize(
    ("state", "app_env", "level", "said"),
    [
        (SchemaState("0001", "0001", known=True), "development", "ok", "0001"),
        (SchemaState("0001", "0002", known=True), "production", "fail", "python -m app migrate"),
        (
            SchemaState("0009", "0001", known=False),
            "production",
            "ok",
            "a newer version has migrated already",
        ),
        (SchemaState("0009", "0001", known=False), "development", "fail", "another checkout"),
    ],
)
async def test_schema(  # noqa: PLR0917 - a table
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    state: SchemaState,
    app_env: str,
    level: str,
    said: str,
) -> None:
    async def reported(*_: object) -> SchemaState:
        return state

    monkeypatch.setattr(schema, "schema_state", reported)
    found = (await report(database_url, app_env=app_env))["primary schema"]
    assert found.level == level
    assert said in found.finding + found.advice


async def test_revisions_that_contradict_each_other(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def confused(*_: object) -> SchemaState:
        raise MigrationError("two revisions claim to be the newest")

    monkeypatch.setattr(schema, "schema_state", confused)
    found = (await report(database_url))["primary schema"]
    assert (found.level, found.finding) == ("fail", "two revisions claim to be the newest")


@pytest.mark.parametrize(
    ("instances", "level", "advice"),
    [(8, "warn", "POOL_MAX_SIZE=18"), (10, "fail", "POOL_MAX_SIZE=14"), (100, "fail", "put PgBouncer")],
)
async def test_pools_too_large_for_the_server(
    migrated_database: str, instances: int, level: str, advice: str
) -> None:
    found = (await report(migrated_database, pool_instances=instances))["primary sizing"]
    assert found.level == level
    assert advice in found.advice


async def test_processes_that_share_the_server_are_counted(server_factory: ServerFactory) -> None:
    """40 sessions for ordinary users, and 10 to share: five places."""
    server = await server_factory(max_connections="43", superuser_reserved_connections="3")
    auto = {
        "pool_instances": "auto",
        "pool_max_size": "auto",
        "pool_headroom": 0.25,
        "service_name": "ledger",
    }

    async def counted() -> Finding:
        return (await report(server.dsn(), **auto))["primary sizing"]

    found = await counted()
    assert (found.level, found.finding) == (
        "ok",
        "POOL_INSTANCES=auto: no processes now; places for 5 (10 sessions; each has one beside its pool);"
        " with one more each has 9",
    )
    async with AsyncExitStack() as stack:

        async def there_is(name: str) -> None:
            session = await asyncpg.connect(server.dsn(), server_settings={"application_name": name})
            stack.push_async_callback(session.close)

        for number, claim in enumerate((1, 2, 1, 0)):
            name = f"ledger#00000{number}"
            await there_is(f"{name} seat {claim}")
            await there_is(name)
        found = await counted()
        assert (found.level, found.finding) == (
            "ok",
            "POOL_INSTANCES=auto: 4 processes now, with 1 to 2 connections for each pool, 1 of them waiting"
            " until others have shrunk; places for 5 (10 sessions; each has one beside its pool);"
            " with one more each has 1",
        )
        used = (await report(server.dsn(), **auto))["primary sessions"]
        assert [line.split(",")[0].split() for line in used.lines] == [["9", "ledger"]]
        await there_is("ledger#00000a seat 1")
        found = await counted()
        assert (found.level, found.finding.rpartition("; ")[2]) == ("warn", "no place for one more")
    text = await sizing_report(settings_for(server.dsn(), **auto))
    assert "POOL_INSTANCES     auto: places for 5 (10 sessions" in text


async def test_each_replica_s_server_has_to_have_room_too(migrated_database: str) -> None:
    found = await report(migrated_database, database_replica_url=migrated_database, pool_instances=10)
    assert found["replica sizing"].level == "fail"


async def test_primary_that_takes_no_writes(postgres: PostgresServer, migrated_database: str) -> None:
    name = migrated_database.rpartition("/")[2]
    async with postgres.connect() as admin:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    found = await report(migrated_database)
    assert found["primary server"].level == "fail"
    assert "read-only" in found["primary server"].finding
    assert "no writable server" in found["primary server"].finding
    assert f"ALTER DATABASE {name} RESET default_transaction_read_only" in found["primary server"].advice
    assert found["primary schema"].level == "ok"  # it is looked at all the same


async def test_replica(migrated_database: str) -> None:
    found = await report(migrated_database, database_replica_url=migrated_database)
    of_replica = {finding.check: finding.level for finding in found.values() if finding.on == "replica"}
    assert set(of_replica) == {check.name for check in CHECKS if "replica" in check.roles}
    assert of_replica["server"] == of_replica["lag"] == "ok"
    assert "it is no standby" in found["replica lag"].finding


async def test_of_several_replicas_each_is_looked_at(migrated_database: str) -> None:
    found = await report(migrated_database, database_replica_url=f"{migrated_database} {nowhere()}")
    assert [
        found[topic].level for topic in ("replica-1 server", "replica-1 latency", "replica-2 server")
    ] == [
        "ok",
        "ok",
        "warn",
    ]
    assert "its reads go to other replicas" in found["replica-2 server"].finding


async def test_settings_that_may_be_a_mistake(migrated_database: str) -> None:
    url = migrated_database.replace("127.0.0.1", "db.invalid")
    found = await report(url, app_env="production", pool_connect_timeout=1)
    assert found["service settings"].level == "warn"
    assert "sslmode is not set" in found["service settings"].finding


async def test_role_that_may_do_everything_is_not_for_production(migrated_database: str) -> None:
    found = (await report(migrated_database, app_env="production"))["primary rights"]
    assert (found.level, "CREATE ROLE" in found.advice) == ("warn", True)


@pytest.mark.parametrize(
    ("before", "there", "after", "level", "said"),
    [
        (100.0, 100.2, 100.4, "ok", "0 ms"),
        (100.0, 100.9, 100.0, "ok", "900 ms ahead of"),
        (100.0, 102.0, 100.0, "warn", "2000 ms ahead of"),
        (100.0, 98.0, 100.0, "warn", "2000 ms behind"),
        (100.0, 102.0, 102.5, "ok", "750 ms ahead of"),
        (100.0, 103.0, 103.9, "ok", "1050 ms ahead of"),  # it may be half a round trip less
    ],
)
def test_clocks(before: float, there: float, after: float, level: Level, said: str) -> None:
    found = judge_clock(before, there, after)
    assert (found.level, said in found.finding) == (level, True), found
    assert bool(found.advice) is (level == "warn")


@pytest.mark.parametrize(
    ("major", "today", "level", "said"),
    [
        (12, date(2026, 1, 1), "warn", "13 and later"),
        (13, date(2025, 11, 13), "ok", "2025-11-13"),
        (13, date(2025, 11, 14), "warn", "gets no fixes any more"),
        (18, date(2026, 1, 1), "ok", "2030-11-14"),
        (19, date(2026, 1, 1), "ok", "newer than what this version knows"),
    ],
)
def test_versions(major: int, today: date, level: Level, said: str) -> None:
    found = judge_version(major, today)
    assert (found.level, said in found.finding) == (level, True), found


@pytest.mark.parametrize(
    ("ages", "level", "said"),
    [
        ((100, 0), "ok", "freezes at 200,000,000"),
        ((499_000_000, 0), "ok", "freezes at"),
        ((501_000_000, 0), "warn", "does not keep up"),
        ((100, 701_000_000), "warn", "does not keep up"),
        ((1_500_000_001, 0), "fail", "takes no more writes"),
        ((100, 1_500_000_001), "fail", "takes no more writes"),
    ],
)
def test_transaction_ids_that_run_out(ages: tuple[int, int], level: Level, said: str) -> None:
    found = judge_ages(Ages("ledger", *ages, 200_000_000, 400_000_000, autovacuum=True))
    assert (found.level, said in found.finding) == (level, True), found
    assert ("VACUUM (FREEZE" in found.advice) is (level != "ok")


def test_autovacuum_that_is_off() -> None:
    found = judge_ages(Ages("ledger", 100, 0, 200_000_000, 400_000_000, autovacuum=False))
    assert (found.level, "SET autovacuum = on" in found.advice) == ("warn", True)


class TestChecksThatCannotLook:
    """None of them hides the others."""

    async def findings(self, url: str, monkeypatch: pytest.MonkeyPatch, check: Check) -> dict[str, Finding]:
        last = Check("last", self.last)
        monkeypatch.setattr(examination, "CHECKS", (check, last))
        found = await report(url)
        assert found["primary last"].finding == "still asked"
        return found

    async def last(self, server: Server) -> Result:
        assert await server.connection.fetchval("SELECT 1") == 1
        return Result("ok", "still asked")

    async def test_it_may_ask_for_what_is_not_there(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def look(server: Server) -> Result:
            await server.connection.execute("SELECT * FROM what_a_later_version_has")
            raise AssertionError

        found = (await self.findings(database_url, monkeypatch, Check("odd", look)))["primary odd"]
        assert found.level == "unknown"
        assert "UndefinedTableError" in found.finding

    async def test_it_may_be_a_mistake(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def look(server: Server) -> Result:
            raise KeyError(server.role)

        found = (await self.findings(database_url, monkeypatch, Check("odd", look)))["primary odd"]
        assert (found.level, "KeyError" in found.finding) == ("unknown", True)

    async def test_it_may_cost_the_session(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def look(server: Server) -> Result:
            await server.connection.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")
            raise AssertionError

        found = (await self.findings(database_url, monkeypatch, Check("odd", look)))["primary odd"]
        assert found.level == "unknown"

    async def test_it_has_so_long_and_no_longer(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def hurry(_: Server) -> Result:
            monkeypatch.setattr(examination, "PATIENCE", 0.05)
            return Result("ok", "the next one has less time")

        async def look(server: Server) -> Result:
            monkeypatch.setattr(examination, "PATIENCE", 60.0)
            await server.connection.execute("SELECT pg_sleep(600)")
            raise AssertionError

        checks = (Check("hurry", hurry), Check("odd", look), Check("last", self.last))
        monkeypatch.setattr(examination, "CHECKS", checks)
        found = await report(database_url)
        assert found["primary odd"].level == "unknown"
        assert "no answer within" in found["primary odd"].finding
        assert found["primary last"].finding == "still asked"

    async def test_a_server_that_has_gone_meanwhile_ends_its_checks(
        self, server_factory: ServerFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server of the test's own: services that last may be connected to the one for the whole run."""
        server = await server_factory()

        async def look(visited: Server) -> Result:
            await server.stop()
            await visited.connection.execute("SELECT 1")
            raise AssertionError

        monkeypatch.setattr(examination, "CHECKS", (Check("odd", look), Check("last", self.last)))
        found = await report(server.dsn())
        assert "primary last" not in found
        assert "the checks after odd were not made" in found["primary session"].finding


def test_the_report_for_programs() -> None:
    findings = [
        Finding("primary", "clock", "ok", "fine"),
        Finding("replica-1", "lag", "warn", "behind", "SELECT 1;", ("a", "b")),
    ]
    assert as_json(findings) == {
        "format": 1,
        "level": "warn",
        "counts": {"fail": 0, "warn": 1, "unknown": 0, "ok": 1},
        "findings": [
            {"on": "primary", "check": "clock", "level": "ok", "finding": "fine", "advice": "", "lines": []},
            {
                "on": "replica-1",
                "check": "lag",
                "level": "warn",
                "finding": "behind",
                "advice": "SELECT 1;",
                "lines": ["a", "b"],
            },
        ],
    }
    assert summary(findings) == "2 checks: 1 warn, 1 ok\nwarn: replica-1 lag"


def test_a_name_does_not_move_the_cursor_of_a_terminal() -> None:
    finding = Finding("primary", "scans", "warn", "of \x1b[2J", "DROP \x07", ("\n",))
    clean = finding.scrubbed(lambda text: text.replace("of", "in"))
    assert (clean.finding, clean.advice, clean.lines) == ("in ?[2J", "DROP ?", ("?",))


def test_amounts_and_names_are_for_people() -> None:
    assert [span(n) for n in (0.0021, 12.34, 90, 1200, 7300, 200_000)] == [
        "2.1 ms",
        "12.3 s",
        "90 s",
        "20.0 min",
        "2.0 h",
        "2.3 days",
    ]
    assert [size(n) for n in (512, 3_500_000, 4 * 2**30)] == ["512 bytes", "3.3 MB", "4.0 GB"]
    assert [identifier(n) for n in ("app_1", "App", "1a", 'o"dd')] == ["app_1", '"App"', '"1a"', '"o""dd"']
