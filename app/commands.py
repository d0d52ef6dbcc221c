"""What the command line does: `python -m app --help`.

Nothing here is needed to serve: `uvicorn app.main:app` starts the same service.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from app import checkup, serving
from app.database import MigrationError, PoolOversized
from app.database.embedded import EmbeddedServerError
from app.main import create_app
from app.observability import logs, output
from app.settings import Settings, SettingsError, env_example

EXPECTED_FAULTS = (
    serving.CannotListen,
    serving.CutOff,
    checkup.Unreachable,
    EmbeddedServerError,
    MigrationError,
)

EMBEDDED_DATA = Path(".data/postgres18")

cli = typer.Typer(
    help="The service and what belongs to it. Settings come from the environment: .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.command()
def serve() -> None:
    """Serve on the database of DATABASE_URL until SIGTERM or Ctrl-C.

    It ends at once at a second one, 2 s later or more: sooner it is taken for the first one again.
    """
    with _readable_faults(), _good_end():
        settings = _loaded()
        with closing(serving.listen(settings)) as listener:
            serving.run(create_app(settings), settings, listener)


@cli.command()
def dev(
    data: Annotated[Path, typer.Option(help="Where the embedded server keeps its data.")] = EMBEDDED_DATA,
) -> None:
    """Migrate and serve; without DATABASE_URL on an embedded PostgreSQL server."""
    from app.development import develop  # noqa: PLC0415 - Alembic, which `serve` starts without

    with _readable_faults(), _good_end():
        develop(_loaded(), data)


@cli.command()
def migrate() -> None:
    """Bring the schema up to date. Any number of these may start at once."""
    from app.database.migrations import upgrade  # noqa: PLC0415 - Alembic, which `serve` starts without

    with _readable_faults():
        settings = _loaded()
        logs.configure(settings)
        asyncio.run(upgrade(settings))


@cli.command()
def doctor() -> None:
    """Check the settings and the databases; exit code 1 if the service could not serve.

    Without DATABASE_URL it looks at the embedded server of a `dev` that runs in this directory.
    """
    with _readable_faults():
        failed = asyncio.run(_report(_settings_to_look_by()))
        raise typer.Exit(code=int(failed))


@cli.command()
def sizing() -> None:
    """Compare what all instances' pools may ask for with what the server has.

    Without DATABASE_URL it looks at the embedded server of a `dev` that runs in this directory.
    """
    with _readable_faults():
        typer.echo(output.shown(asyncio.run(checkup.sizing_report(_settings_to_look_by()))))


@cli.command()
def settings() -> None:
    """Print every variable with its meaning and default, as in .env.example."""
    typer.echo(env_example(), nl=False)


def _loaded() -> Settings:
    """The settings, whose secrets are shown nowhere from here on."""
    settings = Settings.load()
    output.guard(settings)
    return settings


def _settings_to_look_by() -> Settings:
    settings = _loaded()
    if settings.database_url or settings.in_production:
        return settings
    from app.development import on_running_database  # noqa: PLC0415 - Alembic, not needed with a URL

    settings = on_running_database(settings, EMBEDDED_DATA)
    output.guard(settings)
    return settings


async def _report(settings: Settings) -> bool:
    failed = False
    async for finding in checkup.examine(settings):
        typer.echo(output.shown(finding))
        failed |= finding.verdict == "FAIL"
    return failed


@contextmanager
def _readable_faults() -> Iterator[None]:
    """A line for each fault instead of a traceback; exit code 2 for settings, 1 for the rest."""
    try:
        yield
    except (SettingsError, PoolOversized, serving.Refused) as error:
        typer.echo(output.shown(error), err=True)
        raise typer.Exit(code=2) from error
    except EXPECTED_FAULTS as error:
        typer.echo(output.shown(error), err=True)
        raise typer.Exit(code=1) from error


@contextmanager
def _good_end() -> Iterator[None]:
    """Being told to stop is no failure: exit code 0, also when uvicorn passes its signal on."""

    def leave(*_: object) -> None:
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(code=0) from None
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:  # once stopped, it is ignored
            signal.signal(signal.SIGTERM, before)
