"""`make psql` and `make shell`: programs for a person, on the service's database."""

from __future__ import annotations

import ast
import asyncio
import code
import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Awaitable, Iterator, Sequence
from types import CodeType, FunctionType
from typing import Any
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from lifeguard.database import Database
from lifeguard.database.connect_options import connect_options
from lifeguard.development.embedded import binaries
from lifeguard.pool import Connector
from lifeguard.settings import Settings
from lifeguard.settings.dsn import without_secrets

__all__ = ["psql", "shell"]

_BANNER = """\
`database` is open ({where}), `settings` are what it was opened with; `await` works:

    await database.fetch("SELECT 1 AS one")
    async with database.transaction() as transaction: ...
"""


def psql(settings: Settings, arguments: Sequence[str]) -> int:
    """Run psql on DATABASE_URL; its exit code. The password is in no command line."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    environment = dict(os.environ)
    if password := _password_of(settings, url):
        environment["PGPASSWORD"] = password
    program = shutil.which("psql") or str(binaries() / "psql")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # psql's: it cancels the statement
    try:
        return subprocess.run(  # noqa: S603 - its user's own arguments
            [program, without_secrets(url), *arguments], env=environment, check=False
        ).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _password_of(settings: Settings, url: str) -> str | None:
    connector = Connector(url, settings.pool_connect_timeout, None, connect_options(settings))
    if (asked := asyncio.run(connector.first_password())) is not None:
        return asked
    password = urlsplit(url).password
    return unquote(password) if password else None


def shell(settings: Settings) -> None:
    """A Python prompt with `await`, `database` and `settings`, until its input ends."""
    with contextlib.suppress(ImportError):  # on some systems Python has none
        import readline  # noqa: F401, PLC0415 - gives `input()` a history
    assert settings.database_url is not None
    with _loop_beside() as loop:
        database = Database(settings)
        asyncio.run_coroutine_threadsafe(database.open(), loop).result()
        try:
            names = {"database": database, "settings": settings, "asyncio": asyncio}
            where = without_secrets(settings.database_url.get_secret_value())
            _Console(loop, names).interact(banner=_BANNER.format(where=where), exitmsg="")
        finally:
            asyncio.run_coroutine_threadsafe(database.drain(1.0), loop).result()


@contextlib.contextmanager
def _loop_beside() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread: the pools are looked after while a person thinks."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="event loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Console(code.InteractiveConsole):
    """Python's own, whose statements run on a loop and may `await`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, names: dict[str, Any]) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._loop = loop

    @override
    def runcode(self, code: CodeType) -> None:
        async def run() -> None:
            result = FunctionType(code, self.locals)()  # a dict, as given above
            if isinstance(result, Awaitable):
                await result

        running = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            running.result()
        except SystemExit:
            raise
        except KeyboardInterrupt:
            running.cancel()
            raise
        except BaseException:  # noqa: BLE001 - shown, as a prompt does
            self.showtraceback()
