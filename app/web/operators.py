"""What operators ask, on a port of its own (`OPS_PORT`): a second app, which no path of the first leads to.

A filter in front of one app has to understand a path as the app does, and one day it does not (`/%6detrics`,
`//pool`, `/./metrics`). Here the operators' routes are not among those of the public app, and the other way
round. Both run in one process, on one loop, with the same parts.

The listener belongs to the lifespan, not to the command line, so every server that runs the app has it. It is
the last to go: while the service drains `/readyz` says so, until the pools are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import multiprocessing
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import structlog
import uvicorn
from fastapi import APIRouter
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from app.settings import Settings
from app.web import problems
from app.web.body_limit import BodyLimit
from app.web.head import HeadAsGet
from app.web.middleware import RequestMiddleware
from app.web.protocol import Protocol
from app.web.routes import Routing
from app.web.service import Service
from app.web.state import State

# Seconds for answers under way when everything else has ended. What takes longer was a stream, and those end
# with the drain.
_LAST_ANSWERS = 1
_BACKLOG = 128

_log = structlog.get_logger("app.operators")


class CannotListen(Exception):
    """The address is not to be had; the message is one line."""


def reserve(host: str, port: int, name: str, *, shared: bool = False) -> socket.socket:
    """Bind an address, where nobody is let in yet. Raises CannotListen, which names the variable `name`.

    `shared`: with other processes that say so too.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise CannotListen(_explain(error, host, port, name)) from error
    return listener


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class OperatorsService(Service):
    """The operators' routes, and the documentation of another app."""

    def __init__(self, public: Service, settings: Settings, routers: list[APIRouter], state: State) -> None:
        super().__init__(
            title=public.title,
            docs_url=None,
            openapi_url="/openapi.json" if settings.serves_docs else None,
            redoc_url=None,
            redirect_slashes=False,
        )
        self._public = public
        routing = Routing(self)
        self.add_middleware(HeadAsGet, routing=routing)
        self.add_middleware(
            RequestMiddleware,
            body_limit=BodyLimit(routing, settings.max_body_bytes),
            buffered=state["buffered"],
            drain=state["drain"],
            metrics=state["metrics"],
        )
        for kind in problems.handled():
            self.add_exception_handler(kind, problems.answer)
        for router in routers:
            self.include_router(router)

    @override
    def openapi(self) -> dict[str, object]:
        return self._public.openapi()


@asynccontextmanager
async def listening(app: ASGIApp, settings: Settings, state: State) -> AsyncIterator[None]:
    """Serve `app` on OPS_PORT until the block ends. Raises CannotListen."""
    assert settings.ops_port is not None
    with _listener(settings.host, settings.ops_port) as listener:
        server = _Server(
            uvicorn.Config(
                _Stateful(app, state),
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_ANSWERS,
            )
        )
        serving = asyncio.create_task(server.serve([listener]), name="operators")
        try:
            await server.until_started(serving)
            _log.info("operators_served", url=url_of(settings.host, settings.ops_port))
            yield
        finally:
            server.should_exit = True
            await serving


@contextlib.contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """Listen. Workers of one server share the port, as they share that of requests."""
    is_worker = multiprocessing.parent_process() is not None
    with contextlib.closing(reserve(host, port, "OPS_PORT", shared=is_worker)) as listener:
        try:
            listener.listen(_BACKLOG)
        except OSError as error:
            raise CannotListen(_explain(error, host, port, "OPS_PORT")) from error
        yield listener


class _Stateful:
    """Hands every request the state that the lifespan of the public app has made."""

    def __init__(self, app: ASGIApp, state: State) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = dict(self._state)
        await self._app(scope, receive, send)


class _Server(uvicorn.Server):
    """One that leaves signals to the server of the public app."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._started = asyncio.Event()

    async def until_started(self, serving: asyncio.Task[None]) -> None:
        """Wait until it accepts connections; raise what `serving` has raised."""
        started = asyncio.ensure_future(self._started.wait())
        await asyncio.wait((started, serving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            started.cancel()
            await serving

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started.set()


def _explain(error: OSError, host: str, port: int, name: str) -> str:
    where = f"port {port} of {host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken: stop what listens there, or set {name}"
    return f"cannot listen on {where}: {error.strerror or error}"
