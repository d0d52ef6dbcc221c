"""What happens around every request, in one ASGI middleware: each further one would cost again.

It gives the request an identity and a deadline, bounds its body, completes the headers of the
answer, turns unforeseen errors into `internal`, counts, and writes the log line.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from time import perf_counter

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database import CallScope, call_scope
from app.observability import Metrics
from app.web import problems
from app.web.drain import Drain
from app.web.gate import TURNED_AWAY

# Asked for by machines every few seconds, or open for hours: neither counted nor, unless they
# fail, logged.
UNNOTED = frozenset({"/healthz", "/readyz", "/metrics", "/pool/live/events"})
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_EVERY_ANSWER = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_SERVER_ERROR = 500
_PAYLOAD_TOO_LARGE = 413
_CLIENT_CLOSED_REQUEST = 499  # nginx's number for an answer that nobody waited for


class RequestMiddleware:
    """Runs every HTTP request as one `Exchange`."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, drain: Drain, metrics: Metrics) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.drain = drain
        self.metrics = metrics
        self.log = structlog.get_logger("app.request").bind()  # bound once: this path is hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange(self, scope, receive, send)
        token = call_scope.set(exchange.call)
        task = self.drain.enter(f"{scope['method']} {scope['path']} {exchange.call.tag}")
        try:
            await exchange.run()
        finally:
            self.drain.leave(task)
            exchange.note()
            call_scope.reset(token)


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_body_bytes",
        "_knows_length",
        "_middleware",
        "_receive",
        "_refusal",
        "_scope",
        "_send",
        "_started",
        "_status",
        "call",
    )

    def __init__(self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = perf_counter()
        self._status = 0  # until the answer begins
        self._body_bytes = 0
        self._knows_length = False
        self._refusal: Exception | None = None
        self.call = CallScope(tag="")
        for name, value in scope["headers"]:
            if name == b"content-length":
                self._bound_body(value)
            elif name == b"x-request-id" and _VALID_ID.fullmatch(value):
                self.call.tag = value.decode("ascii")
            elif name == b"x-request-timeout":
                self._set_deadline(value)
        self.call.tag = self.call.tag or os.urandom(16).hex()

    def _bound_body(self, length: bytes) -> None:
        if length.isdigit():
            self._knows_length = True  # and the server sees to it that no more comes
            if int(length) > self._middleware.max_body_bytes:
                self._refusal = HTTPException(_PAYLOAD_TOO_LARGE, headers={"Connection": "close"})

    def _set_deadline(self, text: bytes) -> None:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if 0 < seconds < math.inf:
            self.call.deadline = asyncio.get_running_loop().time() + seconds
        else:
            fault = {
                "loc": ("header", "x-request-timeout"),
                "msg": "must be seconds above 0",
                "type": "value",
            }
            self._refusal = RequestValidationError([fault])

    async def run(self) -> None:
        """Have the request served, and answer it in any case."""
        if self._refusal:
            await self._answer(self._refusal)
            return
        try:
            receive = self._receive if self._knows_length else self.receive
            await self._middleware.app(self._scope, receive, self.send)
        except asyncio.CancelledError:
            if self._status or not self._middleware.drain.time_is_up:
                raise
            await self._answer(problems.ShuttingDown(headers={"Retry-After": "1"}))
        except Exception as error:  # noqa: BLE001 - here it becomes an answer and a log line
            await self._answer(error)

    async def _answer(self, error: Exception) -> None:
        if self._status:
            # Too late for another answer. The server ends the connection, so that the client
            # does not take what it has for the whole.
            self._middleware.log.error("answer_broken_off", exc_info=error)
            raise error
        response = await problems.answer(Request(self._scope), error)
        if response.status_code == _SERVER_ERROR:
            self._middleware.log.error("unforeseen_error", exc_info=error)
        await response(self._scope, self._receive, self.send)

    async def receive(self) -> Message:
        """Receive, and count what a client sends that did not say how much it will be."""
        message = await self._receive()
        self._body_bytes += len(message.get("body", b""))
        if self._body_bytes > self._middleware.max_body_bytes:
            raise HTTPException(_PAYLOAD_TOO_LARGE, headers={"Connection": "close"})
        return message

    async def send(self, message: Message) -> None:
        """Send, and complete the headers."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), *_EVERY_ANSWER]
            headers.append((b"x-request-id", self.call.tag.encode("ascii")))
            if self._middleware.drain.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    def note(self) -> None:
        """Count and log what came of it."""
        seconds = perf_counter() - self._started
        status = self._status or _CLIENT_CLOSED_REQUEST
        if TURNED_AWAY in self._scope:  # the gate writes a line for all of a second
            self._middleware.metrics.observe(Request(self._scope), self._scope[TURNED_AWAY], status, seconds)
            return
        route = route_template(self._scope)
        if route not in UNNOTED:
            self._middleware.metrics.observe(Request(self._scope), route, status, seconds)
        elif status < _SERVER_ERROR:
            return
        log = self._middleware.log
        level = logging.INFO if status < _SERVER_ERROR else logging.WARNING
        if log.is_enabled_for(level):
            log.log(level, "request", **self._line(route, status, seconds))

    def _line(self, route: str, status: int, seconds: float) -> dict[str, object]:
        line: dict[str, object] = {
            "method": self._scope["method"],
            # As it came: decoded, it could hold line ends. Without the query, where secrets travel.
            "path": self._scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1"),
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
        }
        if problems.SCOPE_KEY in self._scope:
            error, problem = self._scope[problems.SCOPE_KEY]
            line["problem"] = problem.type
            if status >= _SERVER_ERROR:
                line["error"] = f"{type(error).__name__}: {error}"
        return line


def route_template(scope: Scope) -> str:
    """Give the path of the route that served, placeholders unfilled; `none` without a route."""
    # FastAPI's own note holds the whole path, the route only that below `include_router(prefix=...)`.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return getattr(route, "path", "none")
