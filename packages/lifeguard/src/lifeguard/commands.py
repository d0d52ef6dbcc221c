"""What the command line does: `python -m app --help`.

Nothing here is needed to serve: uvicorn starts the same service from the app alone.
"""

from __future__ import annotations

import lifeguard.lean  # noqa: F401 - first: it says why

# isort: split

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar, cast

import typer
from fastapi import FastAPI

from lifeguard.observability import logs, output
from lifeguard.operations.checks.finding import Finding, summary
from lifeguard.operations.checks.finding import as_json as in_json
from lifeguard.operations.doctor import Unreachable, examine, sizing_report
from lifeguard.server import process
from lifeguard.service import serving
from lifeguard.settings import Settings, SettingsError, env_example

EXPECTED_FAULTS = (*serving.BY_CODE[1], Unreachable)

S = TypeVar("S", bound=Settings)

EMBEDDED_DATA = Path(".data/postgres18")
_ASLEEP = "Nothing stays open while nobody asks."

cli = typer.Typer(
    help="The service and what belongs to it. Settings come from the environment: .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _option(text: str, *names: str, metavar: str = "N") -> Any:  # Any: as typer has it
    """An option of `sizing`, its default in parentheses; `lifeguard.operations.sizing.Asked` bounds it."""
    return typer.Option(*names, metavar=metavar, help=text)


@dataclass(frozen=True, slots=True)
class _Owner:
    """The service that these commands are for."""

    create_app: Callable[[Any], FastAPI]  # of `settings`
    settings: type[Settings]

    @property
    def can_be_imported(self) -> bool:
        """Whether another process finds it by its name."""
        return "__main__" not in {self.create_app.__module__, self.settings.__module__}

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
    owner = _owner(context)
    serving.serve(owner.create_app, owner.settings)


@cli.command()
def dev(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="Where the embedded server keeps its data.")] = EMBEDDED_DATA,
    reload: Annotated[bool, typer.Option(help="Serve new code when a file has changed.")] = True,
) -> None:
    """Migrate and serve; without DATABASE_URL on an embedded PostgreSQL server."""
    development = _development()
    if development is None:
        typer.echo("`dev` is not in this installation: `migrate`, then `serve`", err=True)
        raise typer.Exit(code=2)
    owner = _owner(context)
    with _readable_faults(development.EmbeddedServerError), process.told_to_stop():
        settings = owner.load()
        if reload and owner.can_be_imported and (reloading := _reloading()) is not None:
            code: int = reloading.serve_and_reload(partial(_serve_new_code, owner, data), settings, data)
            raise typer.Exit(code=code)
        development.run(owner.create_app, settings, data)


def _serve_new_code(
    owner: _Owner, data: Path, *served: Any, **on: Any
) -> None:  # Any: of `development.serve`
    """What each process of `dev` does; a process that was not forked has imported the owner's code for it."""
    development = import_module("lifeguard.development.run")
    try:
        with _readable_faults(development.EmbeddedServerError), process.told_to_stop():
            development.serve(owner.create_app, owner.load(), data, *served, **on)
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from end


@cli.command()
def migrate(context: typer.Context) -> None:
    """Bring the schema up to date. Any number of these may start at once.

    Without DATABASE_URL it is that of the embedded server, which is started for it if no `dev` runs here.
    """
    from lifeguard.database.migrations import upgrade  # noqa: PLC0415 - Alembic, which `serve` starts without

    with _readable_faults(), _database_to_look_at(context) as settings:
        logs.configure(settings)
        asyncio.run(upgrade(settings))


@cli.command()
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object in JSON, for programs.")] = False,
) -> None:
    """Check the settings and the databases, and say what to do.

    Exit code 0: nothing is wrong, though there may be warnings and what could not be looked at. 1: something
    is wrong (FAIL), and the service could not serve as it is meant to. 2: a variable is wrong, which standard
    error says. Each check is explained in docs/doctor.md.

    Without DATABASE_URL it looks at the embedded server, which is started for it if no `dev` runs here.
    """
    with _readable_faults(), _database_to_look_at(context) as settings:
        failed = asyncio.run(_report(settings, as_json=as_json))
        raise typer.Exit(code=int(failed))


@cli.command(context_settings={"ignore_unknown_options": True})
def psql(context: typer.Context, arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Open psql on the database, with these arguments of psql.

    Without DATABASE_URL on the embedded server, which is started for it if no `dev` runs in this directory.
    """
    with _readable_faults(), _database_to_look_at(context) as settings:
        raise typer.Exit(code=_tools().psql(settings, arguments or []))


@cli.command()
def shell(context: typer.Context) -> None:
    """Open a Python prompt that takes `await`, with `database` and `settings`.

    Without DATABASE_URL on the embedded server, which is started for it if no `dev` runs in this directory.
    """
    with _readable_faults(), _database_to_look_at(context) as settings:
        _tools().shell(settings)


@cli.command()
def sizing(
    context: typer.Context,
    *,
    cores: Annotated[str | None, _option("Processors of the database's server.")] = None,
    disks: Annotated[str | None, _option("Disks it reads from at once, 0 if all is in memory (1).")] = None,
    replicas: Annotated[str | None, _option("Instances of the service (1).")] = None,
    workers: Annotated[str | None, _option("Processes of each instance (1).")] = None,
    surge: Annotated[str | None, _option("More instances while a deploy rolls (a quarter).")] = None,
    rps: Annotated[str | None, _option("Requests a second that borrow, of all instances.")] = None,
    hold_ms: Annotated[str | None, _option("Milliseconds that one keeps its connection.")] = None,
    idle_ms: Annotated[str | None, _option("Of them, in which the server waits for the service (0).")] = None,
    max_connections: Annotated[str | None, _option("Of the server (100).")] = None,
    reserved: Annotated[str | None, _option("Of them, for superusers and other roles (3).")] = None,
    share: Annotated[str | None, _option("The part of the server that is this service's (1).")] = None,
    headroom: Annotated[str | None, _option("POOL_HEADROOM (0.75).")] = None,
    standbys: Annotated[str | None, _option("Replicas of the database that are read (0).")] = None,
    tasks: Annotated[str | None, _option("Most requests under way at once in a process.")] = None,
    borrows: Annotated[str | None, _option("Connections that one holds at once (1).")] = None,
    scale_to_zero: Annotated[bool, typer.Option("--scale-to-zero", help=_ASLEEP)] = False,
    running: Annotated[str | None, _option("A running service: its load.", "--from", metavar="URL")] = None,
    seconds: Annotated[str | None, _option("Measure it so long; 0: since it began (10).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    as_env: Annotated[bool, typer.Option("--env", help="Print lines for the environment.")] = False,
) -> None:
    """Say how large the pools should be, and why; without options compare them with what the server has.

    Its advice is computed; no database is asked. The exit code is 1 if the server cannot carry the load,
    or if tasks that hold several connections could wait for each other for ever.
    Without options it asks the server: that of DATABASE_URL, or the embedded one, which is started for it if
    no `dev` runs here.
    """
    given = {
        "cores": cores,
        "disks": disks,
        "replicas": replicas,
        "workers": workers,
        "surge": surge,
        "rps": rps,
        "hold_ms": hold_ms,
        "idle_ms": idle_ms,
        "max_connections": max_connections,
        "reserved": reserved,
        "share": share,
        "headroom": headroom,
        "standbys": standbys,
        "tasks": tasks,
        "borrows": borrows,
        "scale_to_zero": scale_to_zero or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    with _readable_faults():
        if given or running is not None or seconds is not None or as_json or as_env:
            _advise(given, running, seconds, "json" if as_json else "env" if as_env else "text")
            return
        with _database_to_look_at(context) as settings:
            typer.echo(output.shown(asyncio.run(sizing_report(settings))))


def _advise(given: dict[str, Any], running: str | None, seconds: str | None, form: str) -> None:
    """Any: texts and a bool, which `read` takes apart."""
    from lifeguard.operations import sizing  # noqa: PLC0415 - `serve` starts without

    try:
        asked, observed = sizing.asked_of(given, running, seconds)
    except sizing.NotObserved as error:
        raise SettingsError(str(error)) from error
    advice = sizing.advise(asked)
    forms = {"json": sizing.as_json, "env": sizing.as_environment, "text": sizing.as_text}
    typer.echo(output.shown(forms[form](advice, observed)))
    raise typer.Exit(code=int(not advice.works))


@cli.command()
def settings(context: typer.Context) -> None:
    """Print every variable with its meaning and default, as in .env.example."""
    typer.echo(env_example(_owner(context).settings), nl=False)


def _development() -> ModuleType | None:
    """What is for development only, and imported by these commands alone; the image does not have it."""
    if find_spec("lifeguard.development") is None:
        return None
    return import_module("lifeguard.development.run")


def _reloading() -> ModuleType | None:
    """What watches files, if the library for it is there."""
    return import_module("lifeguard.development.reload") if find_spec("watchfiles") else None


def _owner(context: typer.Context) -> _Owner:
    return cast("_Owner", context.obj)


@contextmanager
def database_to_look_at(settings: type[S]) -> Iterator[S]:
    """The database that these commands look at, for other programs, as Alembic's: the settings with its URL.
    Where there is none it writes a line to standard error and raises SystemExit."""
    try:
        with _readable_faults(), _database_of(settings.load()) as found:
            yield found
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from end


def _database_to_look_at(context: typer.Context) -> AbstractContextManager[Settings]:
    return _database_of(_owner(context).load())


@contextmanager
def _database_of(settings: S) -> Iterator[S]:
    """The settings with a database: DATABASE_URL's, or the embedded server's, which is started for the block
    if it has data and no `dev` runs. Raises SettingsError where there is none."""
    if settings.database_url or settings.in_production or (development := _development()) is None:
        yield _with_database(settings)
        return
    with (
        _readable_faults(development.EmbeddedServerError),
        development.on_some_database(settings, EMBEDDED_DATA) as found,
    ):
        output.guard(found)
        yield _with_database(found, "; a database of `make run` would do, and there is none yet")


def _with_database(settings: S, otherwise: str = "") -> S:
    if settings.database_url is None:
        raise SettingsError(f"DATABASE_URL: required here{otherwise}")
    return settings


def _tools() -> ModuleType:
    """What a person at a terminal uses; the image does not have it."""
    if find_spec("lifeguard.development") is None:
        raise SettingsError("this command is not in this installation: it is for development")
    return import_module("lifeguard.development.tools")


async def _report(settings: Settings, *, as_json: bool) -> bool:
    """Print what the doctor finds, and say whether something is wrong."""
    found: list[Finding] = []
    told = _Reader()
    async with aclosing(examine(settings)) as findings:
        async for finding in findings:
            found.append(finding.scrubbed(output.shown))
            if not as_json:
                told.say(str(found[-1]))
    told.say(json.dumps(in_json(found), indent=2) if as_json else f"\n{summary(found)}")
    told.end()
    return any(finding.level == "fail" for finding in found)


class _Reader:
    """Standard output, whose other end may have enough at any time: `doctor | head -3`."""

    _reads = True

    def say(self, text: str) -> None:
        try:
            if self._reads:
                typer.echo(text)
        except BrokenPipeError:
            self._reads = False

    def end(self) -> None:
        if not self._reads:
            # Python flushes it at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _readable_faults(*more: type[Exception]) -> Iterator[None]:
    """A line for each fault instead of a traceback; exit code 2 for settings, 1 for the rest."""
    expected: tuple[type[Exception], ...] = (*EXPECTED_FAULTS, *more)
    try:
        yield
    except serving.BY_CODE[2] as error:
        typer.echo(output.shown(error), err=True)
        raise typer.Exit(code=2) from error
    except expected as error:
        typer.echo(output.shown(error), err=True)
        raise typer.Exit(code=1) from error
