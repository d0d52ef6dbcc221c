"""What Alembic's own commands do here, with `migrations/env.py`."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from lifeguard.commands import EMBEDDED_DATA
from lifeguard.database.migrations import upgrade
from lifeguard.database.schema import current_revision
from lifeguard.development.embedded import EmbeddedServer
from lifeguard.development.run import EMBEDDED_DATABASE
from lifeguard.testing.revisions import Revisions

from app.settings import Settings
from tests.inside import settings_for


async def test_alembics_own_commands_work_on_the_services_settings(
    database_url: str,
    add_revision: Revisions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    await upgrade(settings_for(database_url))
    monkeypatch.setenv("DATABASE_URL", database_url)
    config = Config()
    config.set_main_option("script_location", str(Settings.migrations))
    await asyncio.to_thread(command.downgrade, config, "base")
    connection = await asyncpg.connect(database_url)
    assert await current_revision(connection) is None
    await connection.close()


def test_without_a_url_it_is_the_server_of_make_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The one that runs; where there is none, and nothing to start one on, it says so in a line."""
    config = Config()
    config.set_main_option("script_location", str(Settings.migrations.absolute()))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.current(config)
    assert ended.value.code == 2
    assert capfd.readouterr().err.startswith("DATABASE_URL: required here; a database of `make run` would do")
    with EmbeddedServer(EMBEDDED_DATA, disposable=True) as server:
        server.ensure_database(EMBEDDED_DATABASE)
        command.current(config)


async def test_sql_can_be_printed_instead_of_run(
    add_revision: Revisions, capsys: pytest.CaptureFixture[str]
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    config = Config()
    config.set_main_option("script_location", str(Settings.migrations))
    command.upgrade(config, "head", sql=True)
    assert "CREATE TABLE things (id int);" in capsys.readouterr().out
