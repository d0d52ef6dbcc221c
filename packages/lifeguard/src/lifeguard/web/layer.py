"""The engine's protections in one layer, where they stand side by side.

Each of them is a middleware of its own, and can be left out. Six of them around each other, and three of
FastAPI's around those, are a coroutine each, most of them with a `send` of their own. So when the app has put
its middleware together, what follows `RequestMiddleware` is looked at:

the engine's, in their usual order    one `Layer` does their work; what is behind them is called by it
anything in between                   they stay as they are

The layer has ordinary requests only. A WebSocket, a HEAD and a route with `stale_if_error()` go the long way,
through the middlewares themselves. So does every request where other middleware stands in between.
Middleware of the owner's may stand around all, or behind all.

Where nothing stands around `RequestMiddleware` but what FastAPI puts there, `Front` spares that, too. What
changes these classes or the finished stack, as tracers do, finds the long way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifeguard.web.gate import GateMiddleware
from lifeguard.web.hangup import HangupMiddleware, Line
from lifeguard.web.head_as_get import HeadAsGet
from lifeguard.web.middleware import BEGUN, RequestMiddleware
from lifeguard.web.sockets import SocketMiddleware
from lifeguard.web.stale import SAFE, StaleIfError, may_be_stale

if TYPE_CHECKING:
    from lifeguard.web.middleware import RequestExchange

TOGETHER = True
"""Whether layers are made; tests compare what is answered without."""

_IN_ORDER = (SocketMiddleware, HeadAsGet, StaleIfError, GateMiddleware, HangupMiddleware)
"""From the outside inwards; some may be missing."""
_FASTAPIS = (
    "starlette.middleware.errors.ServerErrorMiddleware",
    "fastapi.telemetry._asgi.ExceptionTelemetryMiddleware",
    "fastapi._body_limit.AppBodyLimitMiddleware",
)
"""What FastAPI puts around all middleware, from the outside inwards."""
_ENTRANCES: tuple[tuple[type, str], ...] = (
    (FastAPI, "__call__"),
    (Starlette, "__call__"),
    (Starlette, "build_middleware_stack"),
    (FastAPI, "build_middleware_stack"),
    (ServerErrorMiddleware, "__call__"),
)
_STARTED: Message = {"type": "http.response.start"}
"""Tells Starlette's handling of errors that the answer had begun; nobody is sent it."""
_ERROR = "lifeguard.error"


class Layer:
    """Does for a request what the middlewares do that it was made of, and calls what is behind them."""

    def __init__(self, middlewares: list[Any]) -> None:
        """`middlewares` are neighbours, from the outside inwards."""
        by_kind = {type(one): one for one in middlewares}
        self._stale: StaleIfError | None = by_kind.get(StaleIfError)
        self._gate: GateMiddleware | None = by_kind.get(GateMiddleware)
        self._listens = HangupMiddleware in by_kind
        self._behind: ASGIApp = middlewares[-1].app

    def takes(self, scope: Scope) -> bool:
        """Whether this request needs no more than is done here."""
        method, stale = scope["method"], self._stale
        if method == "HEAD":
            return False
        if stale is None:
            return True
        if method == "GET":
            return not may_be_stale(stale.routing.choice(scope).served)
        return method in SAFE or not stale.shelf

    async def serve(self, exchange: RequestExchange, scope: Scope, receive: Receive) -> None:
        gate = self._gate
        if gate is not None and (refusal := gate.refusal_of(scope)) is not None:
            await gate.refuse(refusal, scope, exchange.send)
            return
        if not self._listens:
            await self._behind(scope, receive, exchange.send)
            return
        line = exchange.line = Line(receive, exchange.send, is_complete=not exchange.awaits_body)
        with line:
            await self._behind(scope, line.receive, exchange.send)


class Front:
    """In front of the engine's middleware, instead of what FastAPI puts around all: the same for less."""

    def __init__(self, stack: Any, requests: RequestMiddleware) -> None:
        self._stack = stack
        self._requests = requests
        self._errors = ServerErrorMiddleware(_fail, stack.handler, stack.debug)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if MAX_BODY_SIZE_SCOPE_KEY in scope:  # of an app that this one is mounted in
            await self._stack(scope, receive, send)
            return
        try:
            await self._requests(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - it is raised again, by Starlette's handling of errors
            await self._fail(error, scope, receive, send)

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        async def without_start(message: Message) -> None:
            if message is not _STARTED:
                await send(message)

        scope[_ERROR] = error
        await self._errors(scope, receive, without_start)


async def _fail(scope: Scope, _: Receive, send: Send) -> None:
    """An app that fails as the engine's middleware has failed."""
    error: Exception = scope.pop(_ERROR)
    if scope.get(BEGUN):
        await send(_STARTED)
    raise error


def make_layer(stack: ASGIApp) -> str:
    """Have the engine's middlewares of this stack be one layer. Says what is in the way, if something is."""
    requests = next((one for one in _chain(stack) if type(one) is RequestMiddleware), None)
    if requests is None or not TOGETHER:
        return ""
    found, left = [], list(_IN_ORDER)
    for one in _chain(requests.app):
        if type(one) not in left:
            break
        del left[: left.index(type(one)) + 1]
        found.append(one)
    others = [
        type(one).__name__ for one in _chain(requests.app) if type(one) in _IN_ORDER and one not in found
    ]
    if found and not others:
        requests.layer = Layer(found)
    return ", ".join(others)


def make_front(stack: Any) -> Front | None:
    """Give what spares requests FastAPI's own way to the engine's middleware. None: others are there."""
    around = []
    for one in _chain(stack):
        if type(one) is RequestMiddleware:
            break
        around.append(f"{type(one).__module__}.{type(one).__qualname__}")
    else:
        return None
    is_all = (
        TOGETHER and tuple(around) == _FASTAPIS and all(_is_its_own(*entrance) for entrance in _ENTRANCES)
    )
    return Front(stack, one) if is_all else None


def _is_its_own(kind: type, name: str) -> bool:
    """Whether the method is the one that the class was written with; tracers put theirs in its place."""
    method: Callable[..., object] = getattr(kind, name)
    code = getattr(method, "__code__", None)
    return code is not None and code.co_filename == sys.modules[kind.__module__].__file__


def _chain(app: Any) -> Iterator[Any]:
    """The app, what it calls, what that calls, ..., as far as it is called `app`."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        yield app
        app = getattr(app, "app", None)
