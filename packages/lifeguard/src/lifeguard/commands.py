"""What the command line does: `python -m app --help`.

Nothing here is needed to serve: uvicorn starts the same service from the app alone.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import typer
from fastapi import FastAPI

from lifeguard.database import MigrationError, PoolOversized
from lifeguard.observability import logs, output
from lifeguard.operations.doctor import Unreachable, examine, sizing_report
from lifeguard.server import process
from lifeguard.settings import Settings, SettingsError, env_example

EXPECTED_FAULTS = (
    process.CannotListen,
    process.CutOff,
    Unreachable,
    MigrationError,
)

S = TypeVar("S", bound=Settings)

EMBEDDED_DATA = Path(".data/postgres18")

cli = typer.Typer(
    help="The service and what belongs to it. Settings come from the environment: .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True, slots=True)
class _Owner:
    """The service that these commands are for."""

    create_app: Callable[[Any], FastAPI]  # of `settings`
    settings: type[Settings]

    def load(self) -> Settings:
        """The settings, whose secrets are shown nowhere from here on."""
        settings = self.settings.load()
        output.guard(settings)
        return settings


def command_line(create_app: Callable[[S], FastAPI], settings: type[S]) -> typer.Typer:
    """The commands of the service that `create_app` puts together from `settings`."""

    @cli.callback()
    def owned(context: typer.Context) -> None:
        context.obj = _Owner(create_app, settings)

    return cli


@cli.command()
def serve(context: typer.Context) -> None:
    """Serve on the database of DATABASE_URL until SIGTERM or Ctrl-C.

    It ends at once at a second one, 2 s later or more: sooner it is taken for the first one again.
    """
    with _readable_faults(), _good_end():
        owner = _owner(context)
        settings = owner.load()
        with closing(process.listen(settings)) as listener:
            process.run(owner.create_app(settings), settings, listener)


@cli.command()
def dev(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="Where the embedded server keeps its data.")] = EMBEDDED_DATA,
) -> None:
    """Migrate and serve; without DATABASE_URL on an embedded PostgreSQL server."""
    from lifeguard.development import run  # noqa: PLC0415 - production never imports it

    with _readable_faults(run.EmbeddedServerError), _good_end():
        owner = _owner(context)
        run.run(owner.create_app, owner.load(), data)


@cli.command()
def migrate(context: typer.Context) -> None:
    """Bring the schema up to date. Any number of these may start at once."""
    from lifeguard.database.migrations import upgrade  # noqa: PLC0415 - Alembic, which `serve` starts without

    with _readable_faults():
        settings = _owner(context).load()
        logs.configure(settings)
        asyncio.run(upgrade(settings))


@cli.command()
def doctor(context: typer.Context) -> None:
    """Check the settings and the databases; exit code 1 if the service could not serve.

    Without DATABASE_URL it looks at the embedded server of a `dev` that runs in this directory.
    """
    with _readable_faults():
        failed = asyncio.run(_report(_settings_to_look_by(context)))
        raise typer.Exit(code=int(failed))


@cli.command()
def sizing(context: typer.Context) -> None:
    """Compare what all instances' pools may ask for with what the server has.

    Without DATABASE_URL it looks at the embedded server of a `dev` that runs in this directory.
    """
    with _readable_faults():
        typer.echo(output.shown(asyncio.run(sizing_report(_settings_to_look_by(context)))))


@cli.command()
def settings(context: typer.Context) -> None:
    """Print every variable with its meaning and default, as in .env.example."""
    typer.echo(env_example(_owner(context).settings), nl=False)


def _owner(context: typer.Context) -> _Owner:
    return cast("_Owner", context.obj)


def _settings_to_look_by(context: typer.Context) -> Settings:
    settings = _owner(context).load()
    if settings.database_url or settings.in_production:
        return settings
    from lifeguard.development import run  # noqa: PLC0415 - production never imports it

    with _readable_faults(run.EmbeddedServerError):
        settings = run.on_running_database(settings, EMBEDDED_DATA)
    output.guard(settings)
    return settings


async def _report(settings: Settings) -> bool:
    failed = False
    async for finding in examine(settings):
        typer.echo(output.shown(finding))
        failed |= finding.verdict == "FAIL"
    return failed


@contextmanager
def _readable_faults(*more: type[Exception]) -> Iterator[None]:
    """A line for each fault instead of a traceback; exit code 2 for settings, 1 for the rest."""
    expected: tuple[type[Exception], ...] = (*EXPECTED_FAULTS, *more)
    try:
        yield
    except (SettingsError, PoolOversized, process.Refused) as error:
        typer.echo(output.shown(error), err=True)
        raise typer.Exit(code=2) from error
    except expected as error:
        typer.echo(output.shown(error), err=True)
        raise typer.Exit(code=1) from error


@contextmanager
def _good_end() -> Iterator[None]:
    """Exit with 0 when a signal stops it, also when uvicorn raises the signal again."""

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
