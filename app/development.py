"""`make run`: a database of its own if none is given, its schema, the service, and where to look."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from functools import partial
from pathlib import Path
from shlex import quote

import structlog
import typer
from pydantic import SecretStr

from app import serving
from app.database import MigrationError
from app.database.embedded import EmbeddedServer, running_dsn
from app.database.migrations import upgrade
from app.database.schema import FOREIGN, SchemaState
from app.dsn import without_secrets
from app.main import create_app
from app.observability import output
from app.settings import Settings, SettingsError
from app.web import operators

EMBEDDED_DATABASE = "lifeguard"
LONGEST_DRAIN = 2.5  # seconds; Ctrl-C ends everything within five, stubborn requests or not
MIGRATION_INTERVAL = 1.0  # seconds between two looks for a database that is not there yet

_log = structlog.get_logger("app.development")


def develop(settings: Settings, data: Path) -> None:
    """Migrate and serve until Ctrl-C, on DATABASE_URL or on an embedded server that keeps `data`.

    A database that is not there yet is migrated as soon as it appears; the service runs meanwhile.
    """
    if settings.in_production:
        raise SettingsError("APP_ENV=production: `dev` is for development; `migrate`, then `serve`")
    bounded = settings.model_copy(update={"drain_timeout": min(settings.drain_timeout, LONGEST_DRAIN)})
    try:
        _serve(bounded, data)
    except serving.CutOff as error:
        if bounded.drain_timeout == settings.drain_timeout:
            raise
        because = f"`make run` allows {LONGEST_DRAIN:g} s, which was too short"
        raise serving.CutOff(error.requests, because) from None


def _serve(settings: Settings, data: Path) -> None:
    with closing(serving.listen(settings)) as listener:
        if settings.database_url:
            _serve_on_given(settings, listener)
        else:
            _serve_on_embedded(settings, listener, data)


def on_running_database(settings: Settings, data: Path) -> Settings:
    """`settings` for the embedded server that `develop` runs on `data` now; unchanged if none runs."""
    url = running_dsn(data, EMBEDDED_DATABASE)
    return settings.model_copy(update={"database_url": SecretStr(url)}) if url else settings


def _serve_on_given(settings: Settings, listener: socket.socket) -> None:
    serving.run(
        create_app(settings),
        settings,
        listener,
        beside=partial(_migrate_when_possible, settings),
        on_listening=partial(_announce, settings, listener, "in DATABASE_URL"),
    )


def _serve_on_embedded(settings: Settings, listener: socket.socket, data: Path) -> None:
    if not data.exists():
        typer.echo(f"Creating a PostgreSQL cluster in {data}")
    with EmbeddedServer(data) as server:
        url = SecretStr(server.ensure_database(EMBEDDED_DATABASE))
        settings = settings.model_copy(update={"database_url": url})
        output.guard(settings)
        app = create_app(settings)
        remedy = f": rm -rf {quote(str(data))}, or `dev --data` with another directory"
        _refuse_foreign(asyncio.run(upgrade(settings)), f"{data}: ", remedy)
        serving.run(
            app,
            settings,
            listener,
            on_listening=partial(_announce, settings, listener, f"in {data / 'password'}"),
            on_second_signal=partial(server.stop, "immediate", timeout=1.0),
        )


def _refuse_foreign(state: SchemaState, place: str = "", remedy: str = "") -> None:
    if state.standing == "ahead":
        raise MigrationError(f"{place}{state}; {FOREIGN}{remedy}")


async def _migrate_when_possible(settings: Settings) -> None:
    said = ""
    while True:
        try:
            _refuse_foreign(await upgrade(settings))
        except MigrationError as error:
            if said != (said := str(error)):
                _log.warning("migration_waits", reason=said)
            await asyncio.sleep(MIGRATION_INTERVAL)
        else:
            return


def _announce(settings: Settings, listener: socket.socket, password_is: str) -> None:
    service = serving.url_of(listener)
    inside = operators.url_of(settings.host, settings.ops_port) if settings.ops_port else service
    url = settings.database_url
    database = without_secrets(url.get_secret_value()) if url else "none"
    typer.echo(
        f"""
    service    {service}
    docs       {inside}/docs
    pool       {inside}/pool/live  (JSON: /pool, Prometheus: /metrics)
    database   {database}  (password {password_is})

    Ctrl-C drains and stops everything; a second one, 2 s later, does so at once.
"""
    )
