"""`make run`: a database of its own if none is given, its schema, the service, and where to look."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import structlog
import typer
from fastapi import FastAPI
from pydantic import SecretStr

from lifeguard.database import MigrationError
from lifeguard.database.migrations import upgrade
from lifeguard.database.schema import FOREIGN, SchemaState
from lifeguard.development.embedded import EmbeddedServer, EmbeddedServerError, running_dsn
from lifeguard.observability import output
from lifeguard.server import listening, process
from lifeguard.service import Service
from lifeguard.settings import Settings, SettingsError
from lifeguard.settings.dsn import without_secrets
from lifeguard.web.routes import Routing

EMBEDDED_DATABASE = "lifeguard"
LONGEST_DRAIN = 2.5  # seconds; Ctrl-C ends everything within five, stubborn requests or not
MIGRATION_INTERVAL = 1.0  # seconds between two looks for a database that is not there yet

PAGES = {"docs": "/docs", "pool": "/pool/live", "JSON": "/pool", "metrics": "/metrics"}
"""What a developer may want to look at, where the service has it."""

CreateApp = Callable[[Any], FastAPI]  # of the settings

__all__ = ["EmbeddedServerError", "on_running_database", "run"]

_log = structlog.get_logger("lifeguard.development")


def run(create_app: CreateApp, settings: Settings, data: Path) -> None:
    """Migrate and serve until Ctrl-C, on DATABASE_URL or on an embedded server that keeps `data`.

    A database that is not there yet is migrated as soon as it appears; the service runs meanwhile.
    """
    if settings.in_production:
        raise SettingsError("APP_ENV=production: `dev` is for development; `migrate`, then `serve`")
    bounded = settings.model_copy(update={"drain_timeout": min(settings.drain_timeout, LONGEST_DRAIN)})
    try:
        _serve(create_app, bounded, data)
    except process.CutOff as error:
        if bounded.drain_timeout == settings.drain_timeout:
            raise
        because = f"`make run` allows {LONGEST_DRAIN:g} s, which was too short"
        raise process.CutOff(error.requests, because) from None


def _serve(create_app: CreateApp, settings: Settings, data: Path) -> None:
    with closing(process.listen(settings)) as listener:
        if settings.database_url:
            _serve_on_given(create_app, settings, listener)
        else:
            _serve_on_embedded(create_app, settings, listener, data)


def on_running_database(settings: Settings, data: Path) -> Settings:
    """`settings` for the embedded server that `run` has on `data` now; unchanged if none runs."""
    url = running_dsn(data, EMBEDDED_DATABASE)
    return settings.model_copy(update={"database_url": SecretStr(url)}) if url else settings


def _serve_on_given(create_app: CreateApp, settings: Settings, listener: socket.socket) -> None:
    app = create_app(settings)
    process.run(
        app,
        settings,
        listener,
        beside=partial(_migrate_when_possible, settings),
        on_listening=partial(_announce, app, settings, listener, "in DATABASE_URL"),
    )


def _serve_on_embedded(
    create_app: CreateApp, settings: Settings, listener: socket.socket, data: Path
) -> None:
    if not data.exists():
        typer.echo(f"Creating a PostgreSQL cluster in {data}")
    with EmbeddedServer(data) as server:
        url = SecretStr(server.ensure_database(EMBEDDED_DATABASE))
        settings = settings.model_copy(update={"database_url": url})
        output.guard(settings)
        app = create_app(settings)
        remedy = f": rm -rf {quote(str(data))}, or `dev --data` with another directory"
        _refuse_foreign(asyncio.run(upgrade(settings)), f"{data}: ", remedy)
        process.run(
            app,
            settings,
            listener,
            on_listening=partial(_announce, app, settings, listener, f"in {data / 'password'}"),
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


def _announce(app: FastAPI, settings: Settings, listener: socket.socket, password_is: str) -> None:
    service = process.url_of(listener)
    inside = listening.url_of(settings.host, settings.ops_port) if settings.ops_port else service
    url = settings.database_url
    database = without_secrets(url.get_secret_value()) if url else "none"
    served = {
        one.template for one in Routing(app.operators if isinstance(app, Service) else app).all_served()
    }
    pages = "".join(f"    {name:<11}{inside}{path}\n" for name, path in PAGES.items() if path in served)
    typer.echo(
        f"""
    service    {service}
{pages}    database   {database}  (password {password_is})

    Ctrl-C drains and stops everything; a second one, 2 s later, does so at once.
"""
    )
