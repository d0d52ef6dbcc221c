"""What Alembic's own commands do here, with `migrations/env.py`."""

import asyncio

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from lifeguard.database.migrations import upgrade
from lifeguard.database.schema import current_revision
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


async def test_sql_can_be_printed_instead_of_run(
    add_revision: Revisions, capsys: pytest.CaptureFixture[str]
) -> None:
    add_revision("one", "CREATE TABLE things (id int)")
    config = Config()
    config.set_main_option("script_location", str(Settings.migrations))
    command.upgrade(config, "head", sql=True)
    assert "CREATE TABLE things (id int);" in capsys.readouterr().out
