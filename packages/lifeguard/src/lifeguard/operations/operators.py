"""What operators ask, on a port of its own (`OPS_PORT`): a second app, which no path of the first leads to.

A filter in front of one app has to understand each path as the app does, and some it does not (`/%6detrics`,
`//pool`, `/./metrics`). Here the operators' routes are not among those of the public app, and the other way
round. Both run in one process, on one loop, with the same parts.

The listener belongs to the lifespan, not to the command line, so every server that runs the app has it. It is
the last to go: while the service drains `/readyz` says so, until the pools are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from typing_extensions import override

from lifeguard.operations.state import State
from lifeguard.server.listening import CannotListen, explained, reserve, url_of
from lifeguard.server.protocol import Protocol
from lifeguard.settings import Settings
from lifeguard.web import problems
from lifeguard.web.app import App
from lifeguard.web.body_limit import BodyLimit
from lifeguard.web.consistency import ConsistencyTokens
from lifeguard.web.head_as_get import HeadAsGet
from lifeguard.web.middleware import RequestMiddleware
from lifeguard.web.routes import Routing

# Seconds for answers under way when everything else has ended. What takes longer was a stream, and those end
# with the drain.
_LAST_ANSWERS = 1
_BACKLOG = 128

_log = structlog.get_logger("lifeguard.operators")


class OperatorsService(App):
    """The operators' routes, and the documentation of another app."""

    def __init__(self, public: App, settings: Settings, state: State) -> None:
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
            tokens=ConsistencyTokens(state["database"], settings),
        )
        for kind in problems.handled():
            self.add_exception_handler(kind, problems.answer)

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
            raise CannotListen(explained(error, host, port, "OPS_PORT")) from error
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
