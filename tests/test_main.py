"""The service put together, started and ended the way servers do it."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lifeguard.settings import SettingsError
from lifeguard.testing.processes import environment, running
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually

from app import main
from app.settings import Settings
from tests.inside import service, settings_for
from tests.processes import ROOT

SECRET = "canary-hush-hush"

# `uvicorn app.main:app --port $PORT`, without a shell in between that would swallow signals.
UVICORN = "import os, uvicorn; uvicorn.main(['app.main:app', '--port', os.environ['PORT']])"
FASTAPI = f"from fastapi_cli.cli import app; app(['run', {str(ROOT / 'app/main.py')!r}])"  # knows PORT itself


class TestMaking:
    def test_importing_reads_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rest of this process would see it: every test imports this module."""
        assert "app" not in vars(main)
        assert "app" in dir(main)
        monkeypatch.setenv("POOL_MIN_SIZE", "none")
        with pytest.raises(SystemExit) as ended:
            _ = main.app
        assert ended.value.code == 2

    def test_it_is_made_once(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/x")
        monkeypatch.delitem(vars(main), "app", raising=False)
        try:
            assert main.app is main.app
        finally:
            vars(main).pop("app", None)

    def test_nothing_else_is_made_up(self) -> None:
        with pytest.raises(AttributeError, match="api"):
            _ = main.api

    def test_it_needs_a_database(self) -> None:
        with pytest.raises(SettingsError, match="DATABASE_URL: required"):
            main.create_app(Settings())


@pytest.mark.parametrize("program", [UVICORN, FASTAPI], ids=["uvicorn", "fastapi run"])
class TestUnderAServer:
    def test_a_bad_variable_is_a_line_and_exit_code_2(self, program: str, tmp_path: Path) -> None:
        variables = environment(
            DATABASE_URL=f"mysql://app:{SECRET}@db/x", POOL_MIN_SIZE="30", POOL_MAX_SIZE="20", PORT="0"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 2
        assert ended.stderr.splitlines() == [
            "DATABASE_URL: must start with postgresql:// or postgres://",
            "POOL_MIN_SIZE=30: must not exceed POOL_MAX_SIZE=20",
        ]
        assert SECRET not in ended.stdout

    async def test_it_serves_and_ends_with_every_line_json(
        self, program: str, migrated_database: str, tmp_path: Path
    ) -> None:
        variables = {"DATABASE_URL": migrated_database, "LOG_FORMAT": "json"}
        async with running(["-c", program], cwd=tmp_path, variables=variables) as serving:
            await eventually(lambda: serving.answers("/readyz"))
            assert (await serving.get("/pool")).json()["pools"][0]["stats"]["size"] > 0
            await serving.end(signal.SIGTERM)
            lines = [json.loads(line) for line in serving.output.splitlines() if line.startswith("{")]
        events = [line["event"] for line in lines]
        assert events.count("request") == 1
        assert [event for event in events if event in {"readiness", "draining", "pool_drained"}] == [
            "readiness",
            "draining",
            "pool_drained",
        ]
        assert not [line for line in serving.output.splitlines() if "GET /" in line and line[0] != "{"]


class TestLifespan:
    async def test_a_server_that_is_too_small_is_a_line_and_no_traceback(
        self, migrated_database: str, tmp_path: Path
    ) -> None:
        # Said here, for the owner may have other defaults.
        variables = environment(
            DATABASE_URL=migrated_database,
            POOL_MIN_SIZE="1",
            POOL_MAX_SIZE="20",
            POOL_INSTANCES="50",
            PORT="0",
            LOG_FORMAT="json",
        )
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", UVICORN],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 3  # uvicorn's code for a lifespan that did not start
        assert "POOL_MAX_SIZE=20 x POOL_INSTANCES=50" in ended.stdout
        assert "Traceback" not in ended.stdout + ended.stderr

    async def test_warnings_of_the_settings_are_logged(
        self, migrated_database: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server, _, name = migrated_database.rpartition("/")
        settings = settings_for(f"{server},nowhere.invalid:1/{name}", app_env="production")
        async with service(settings):
            pass
        warned = [line for line in capsys.readouterr().out.splitlines() if '"settings"' in line]
        assert len(warned) == 1
        assert "DATABASE_URL: sslmode" in warned[0]

    async def test_no_connection_is_left_at_the_end(
        self, migrated_database: str, postgres: PostgresServer
    ) -> None:
        async with service(settings_for(migrated_database, pool_min_size=3)) as running_service:
            pool = running_service.state["database"].primary
            await eventually(lambda: pool.get_size() >= 3)
        async with postgres.connect() as admin:

            async def gone() -> bool:
                query = "SELECT FROM pg_stat_activity WHERE application_name = 'under-test' AND datname = $1"
                sessions = list(await admin.fetch(query, migrated_database.rpartition("/")[2]))
                return not sessions

            await eventually(gone)
