"""`make run`: a database of its own if none is given, its schema, the service, and where to look."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from shlex import quote
from types import ModuleType
from typing import Any

import structlog
import typer
from fastapi import FastAPI
from pydantic import SecretStr

from lifeguard.database import MigrationError
from lifeguard.database.migrating_session import look_at_schema
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

_NOT_MIGRATED = "DATABASE_URL is not migrated on a save: `migrate` does it, or a new start"

CreateApp = Callable[[Any], FastAPI]  # of the settings

__all__ = ["EmbeddedServerError", "on_running_database", "on_some_database", "run"]

_log = structlog.get_logger("lifeguard.development")


def nothing() -> None:
    """What is done where nobody has asked for anything."""


def run(create_app: CreateApp, settings: Settings, data: Path) -> None:
    """Migrate and serve until Ctrl-C, on DATABASE_URL or on an embedded server that keeps `data`.

    A database that is not there yet is migrated as soon as it appears; the service runs meanwhile. Raises
    MigrationError, before anything else is said, for a schema that this checkout does not know.
    """
    refuse_production(settings)
    with closing(process.listen(settings)) as listener, embedded_server(settings, data) as server:
        stop = partial(server.stop, "immediate", timeout=1.0) if server else nothing
        serve(create_app, settings, data, listener, on_second_signal=stop)


def refuse_production(settings: Settings) -> None:
    if settings.in_production:
        raise SettingsError("APP_ENV=production: `dev` is for development; `migrate`, then `serve`")


@contextmanager
def embedded_server(settings: Settings, data: Path) -> Iterator[EmbeddedServer | None]:
    """The server that keeps `data`, with the service's database, for the block; None with a DATABASE_URL."""
    if settings.database_url:
        yield None
        return
    if not data.exists():
        typer.echo(f"Creating a PostgreSQL cluster in {data}")
    with EmbeddedServer(data, on_wait=partial(typer.echo, err=True)) as server:
        server.ensure_database(EMBEDDED_DATABASE)
        yield server


def on_running_database(settings: Settings, data: Path) -> Settings:
    """`settings` for the embedded server that `run` has on `data` now; unchanged if none runs."""
    url = running_dsn(data, EMBEDDED_DATABASE)
    if url is None:
        return settings
    # Its password is in its URL. What gives that of another server is not asked.
    others = dict.fromkeys(("database_password_file", "database_password_command"))
    return settings.model_copy(update={"database_url": SecretStr(url), **others})


@contextmanager
def on_some_database(settings: Settings, data: Path) -> Iterator[Settings]:
    """`settings` for DATABASE_URL, or for the embedded server that `run` has on `data` now, or, where none
    runs but has before, for one that runs during the block."""
    if not settings.database_url:
        settings = on_running_database(settings, data)
    if settings.database_url or not data.exists():
        yield settings
        return
    with embedded_server(settings, data):
        yield on_running_database(settings, data)


def serve(
    create_app: CreateApp,
    settings: Settings,
    data: Path,
    listener: socket.socket,
    *,
    on_loaded: Callable[[], None] = nothing,
    on_listening: Callable[[], None] = nothing,
    announces: bool = True,
    on_second_signal: Callable[[], None] = nothing,
) -> None:
    """Serve on a database that runs. `on_loaded` is called when the service has been put together, and
    `on_listening` when it accepts connections, after the lines for the terminal if it `announces` itself.

    One that does not has taken over because something was saved. That may be half a revision, so it migrates
    the embedded server only: others may use that of DATABASE_URL.
    """
    is_embedded = settings.database_url is None
    found = on_running_database(settings, data) if is_embedded else settings
    bounded = found.model_copy(update={"drain_timeout": min(settings.drain_timeout, LONGEST_DRAIN)})
    output.guard(bounded)
    place, remedy = (f"{data}: ", f": rm -rf {quote(str(data))}, or `dev --data` with another directory")
    state = asyncio.run(look_at_schema(bounded))
    if state is not None:
        _refuse_foreign(state, *(place, remedy) if is_embedded else ())
    is_old = state is None or state.is_old
    if is_old and state is not None and not (is_embedded or announces):
        typer.echo(f"{_NOT_MIGRATED}: {state}")
        is_old = False
    if is_old:
        _import_migrations()  # before the logs are configured: Alembic tells of its own plugins
    app = create_app(bounded)
    if is_old and is_embedded:
        asyncio.run(_import_migrations().upgrade(bounded))
    on_loaded()

    def listens() -> None:
        if announces:
            _announce(app, bounded, listener, f"in {data / 'password'}" if is_embedded else "in DATABASE_URL")
        on_listening()

    try:
        process.run(
            app,
            bounded,
            listener,
            beside=partial(_migrate_when_possible, bounded) if is_old and not is_embedded else None,
            on_listening=listens,
            on_second_signal=on_second_signal,
        )
    except process.CutOff as error:
        if bounded.drain_timeout == settings.drain_timeout:
            raise
        because = f"`make run` allows {LONGEST_DRAIN:g} s, which was too short"
        raise process.CutOff(error.requests, because) from None


def _import_migrations() -> ModuleType:
    """Alembic and SQLAlchemy, which take longer to import than a reload takes."""
    return import_module("lifeguard.database.migrations")


def _refuse_foreign(state: SchemaState, place: str = "", remedy: str = "") -> None:
    if state.standing == "ahead":
        raise MigrationError(f"{place}{state}; {FOREIGN}{remedy}")


async def _migrate_when_possible(settings: Settings) -> None:
    said = ""
    while True:
        try:
            _refuse_foreign(await _import_migrations().upgrade(settings))
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
