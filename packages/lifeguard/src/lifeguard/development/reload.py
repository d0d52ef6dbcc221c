"""`make run` with new code: another process takes over when a file has changed.

The supervisor listens, keeps the embedded server, and watches. The first worker is a fork of it, which has
imported the service already. The later ones come from multiprocessing's fork server, which has imported what
the service needs and not the service: to load that takes a fraction of a second. They share the listening
socket, so that no client is refused in between. What cannot be loaded does not take over.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from multiprocessing import forkserver
from pathlib import Path

import typer
from watchfiles import Change, DefaultFilter, awatch

from lifeguard.development.embedded import EmbeddedServer
from lifeguard.development.run import embedded_server, refuse_production
from lifeguard.development.worker import ENDED_BY_SIGNAL, GRACE, LISTENING, LOADED, Serve, Worker
from lifeguard.server import process
from lifeguard.settings import Settings

ENGINE = Path(__file__).parents[1]
_STEP = 50  # milliseconds without a change after which a change is taken for whole
_SUFFIXES = frozenset((".py", ".pyi", ".html", ".sql", ".json", ".toml", ".yaml", ".yml", ".env"))


class _Sources(DefaultFilter):
    """Files that a service is made of; not what editors, Git and Python write beside them."""

    def __call__(self, change: object, path: str) -> bool:
        file = Path(path)
        return file.suffix in _SUFFIXES and super().__call__(change, path)  # type: ignore[arg-type]  # of its own enumeration


def _is_environment(_: object, path: str) -> bool:
    return Path(path).name == ".env"


def serve_and_reload(serve: Serve, settings: Settings, data: Path) -> int:
    """Serve until Ctrl-C, with new code whenever a file has changed; the exit code of the last process."""
    refuse_production(settings)
    watched = watched_by(settings)
    with closing(process.listen(settings)) as listener:
        first = Worker(multiprocessing.get_context("fork"), serve, listener)  # before there is any thread
        try:
            with embedded_server(settings, data) as server:
                _start_fork_server()
                return asyncio.run(_Supervisor(serve, listener, watched, server).run(first))
        finally:
            first.abandon()


def _start_fork_server() -> None:
    """Have what is installed imported in the background, while the first worker starts."""
    multiprocessing.set_forkserver_preload(["lifeguard.development.preload"])
    os.environ["LIFEGUARD_PRELOAD"] = " ".join(_installed_modules())  # there are too many for a command line
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["LIFEGUARD_PRELOAD"]


def watched_by(settings: Settings) -> list[Path]:
    """Where the code is that was imported and not installed, and the migrations."""
    roots = {_root_of(name) for name in tuple(sys.modules)}
    found = {path for path in roots if path is not None}
    found |= {path for path in (settings.migrations,) if path.exists()}
    return sorted(path for path in found if not any(parent in found for parent in path.parents))


def _root_of(name: str) -> Path | None:
    """The folder or file of the package that a module is part of; None for what is installed."""
    package = sys.modules.get(name.partition(".")[0])
    file = getattr(sys.modules.get(name), "__file__", None)
    if not file or name.startswith("__") or _is_installed(file):
        return None
    folders = [Path(path) for path in getattr(package, "__path__", ())]
    return next((folder for folder in folders if Path(file).is_relative_to(folder)), Path(file))


def _is_installed(file: str) -> bool:
    # Whatever the interpreter and the environment have: `.venv` is often a folder of the checkout.
    places = {
        sys.prefix,
        sys.base_prefix,
        *map(str, map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))),
    }
    return file.startswith(tuple(place + os.sep for place in places)) or "site-packages" in file


def _installed_modules() -> list[str]:
    """The modules that a new process may have before it loads the service, in the order of their imports."""

    def names() -> Iterator[str]:
        for name, module in tuple(sys.modules.items()):
            file = getattr(module, "__file__", None)
            is_ours = name.partition(".")[0] == ENGINE.name
            if file and not name.startswith("__") and (is_ours or _is_installed(file)):
                yield name

    return list(names())


class _Supervisor:
    """One worker serves; another may be loading; others are finishing their requests."""

    def __init__(
        self, serve: Serve, listener: socket.socket, watched: list[Path], server: EmbeddedServer | None
    ) -> None:
        self._serve = serve
        self._listener = listener
        self._watched = watched
        self._server = server
        self._context = multiprocessing.get_context("forkserver")
        self._serving: Worker | None = None
        self._loading: Worker | None = None
        self._retiring: set[Worker] = set()
        self._has_served = False
        self._stopping = False
        self._changed_at = 0.0
        self._engine_has_changed = False
        self._starting = asyncio.Lock()  # one new process at a time, of whichever of the two that are watched
        self._over: asyncio.Future[int]

    async def run(self, first: Worker) -> int:
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        self._serving = first
        first.tell(self._hear)
        first.go()
        watching = asyncio.create_task(self._watch())
        try:
            return await self._over
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            for worker in self._workers():
                worker.kill()

    async def _watch(self) -> None:
        # `.env` may come later, and what is not there cannot be watched. Its folder is, without those below.
        await asyncio.gather(
            self._follow(awatch(*self._watched, watch_filter=_Sources(), step=_STEP)),
            self._follow(awatch(Path.cwd(), watch_filter=_is_environment, step=_STEP, recursive=False)),
        )

    async def _follow(self, changes: AsyncIterator[set[tuple[Change, str]]]) -> None:
        async for paths in changes:
            if self._stopping:
                return
            async with self._starting:
                await self._load(sorted(Path(path) for _, path in paths))

    async def _load(self, changed: list[Path]) -> None:
        self._changed_at = time.monotonic()
        typer.echo(f"changed: {', '.join(map(_shown, changed))}")
        self._engine_has_changed |= any(path.is_relative_to(ENGINE) for path in changed)
        if self._loading is not None:
            self._loading.kill()
        # The fork server has the engine as it was.
        context = multiprocessing.get_context("spawn") if self._engine_has_changed else self._context
        worker = await asyncio.to_thread(Worker, context, self._serve, self._listener)
        self._loading = worker
        worker.tell(self._hear)
        worker.go()

    def _hear(self, worker: Worker, said: str | None) -> None:
        if said is None:
            self._note_end(worker)
        elif said == LOADED:
            if worker is self._loading:
                self._take_over(worker)
            worker.go()
        elif said == LISTENING:
            if self._has_served:
                typer.echo(f"reloaded in {time.monotonic() - self._changed_at:.2f} s")
            else:
                where = ", ".join([*map(_shown, self._watched), ".env"])
                typer.echo(f"    A change in {where} is served when it is saved.\n")
            self._has_served = True

    def _take_over(self, worker: Worker) -> None:
        before, self._serving, self._loading = self._serving, worker, None
        if before is not None:
            self._retire(before, signal.SIGTERM)

    def _retire(self, worker: Worker, number: int) -> None:
        self._retiring.add(worker)
        worker.signal(number)
        asyncio.get_running_loop().call_later(GRACE, worker.kill)

    def _note_end(self, worker: Worker) -> None:
        self._retiring.discard(worker)
        if worker is self._serving:
            self._serving = None
            if self._stopping or not self._has_served:
                self._end(worker.exit_code)
            else:
                typer.echo(
                    f"the service has ended (exit code {worker.exit_code}): the next change starts it again"
                )
        elif worker is self._loading:
            self._loading = None
            goes_on = "the code from before goes on serving" if self._serving else "nothing serves"
            typer.echo(f"not loaded: {goes_on} until the next change")

    def _stop(self, number: int) -> None:
        """Pass the signal on; who has it already, from the terminal, takes it for the same one."""
        self._stopping = True
        if self._loading is not None:
            self._loading.kill()
        if self._serving is None:
            self._end(0)
            return
        self._retire(self._serving, number)

    def _end(self, code: int) -> None:
        if code >= ENDED_BY_SIGNAL and self._server is not None:  # a second signal: nothing is waited for
            self._server.stop("immediate", timeout=1.0)
        if not self._over.done():
            self._over.set_result(code)

    def _workers(self) -> list[Worker]:
        return [*self._retiring, *(worker for worker in (self._serving, self._loading) if worker is not None)]


def _shown(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
