"""What `python -m app serve` does, without importing the library of the command line for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

from fastapi import FastAPI

from lifeguard.database import MigrationError, PoolOversized
from lifeguard.observability import output
from lifeguard.pool import PasswordUnavailable
from lifeguard.server import process
from lifeguard.settings import Settings, SettingsError

S = TypeVar("S", bound=Settings)

# Which fault ends the process with which code; each is said in a line, or in several, without a traceback.
BY_CODE: dict[int, tuple[type[Exception], ...]] = {
    2: (SettingsError, PoolOversized, process.Refused),
    1: (process.CannotListen, process.CutOff, MigrationError, PasswordUnavailable),
}


def serve(create_app: Callable[[S], FastAPI], settings: type[S]) -> None:
    """Serve on the database of DATABASE_URL until SIGTERM or Ctrl-C, and drain.

    Raises SystemExit for a fault, which is on standard error then.
    """
    try:
        with process.told_to_stop():
            loaded = settings.load()
            output.guard(loaded)
            with closing(process.listen(loaded)) as listener:
                process.run(create_app(loaded), loaded, listener)
    except tuple(kind for kinds in BY_CODE.values() for kind in kinds) as error:
        sys.stderr.write(f"{output.shown(error)}\n")
        raise SystemExit(next(code for code, kinds in BY_CODE.items() if isinstance(error, kinds))) from error
