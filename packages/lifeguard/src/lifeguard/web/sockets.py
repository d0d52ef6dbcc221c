"""What happens around every WebSocket: it gets an id, is drained, counted, and its failures are logged.

The handshake is a request like others. It passes the gate, is counted as `GET` of its route with 101 or
with what refused it, and is answered with a problem where it fails. An open socket is work in flight.
The drain closes it with 1012, "service restart", `DRAIN_STREAMS` seconds after its beginning: its
endpoint gets a WebSocketDisconnect then, from `receive` and from `send`, and is cancelled if it does
neither for as long again. One that wants to say goodbye waits for the drain (`DrainDep`).

A socket lives for hours, a connection of the pool is lent for milliseconds. So an endpoint takes
`DatabaseDep`, and borrows for each message anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from time import perf_counter

import structlog
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from lifeguard.database import CallScope, call_scope
from lifeguard.observability import Metrics
from lifeguard.web import origins, problems, request_head
from lifeguard.web.answer_headers import answer_types, complete
from lifeguard.web.caller import RequestCaller, route_template
from lifeguard.web.client import client_of
from lifeguard.web.consistency import ConsistencyTokens
from lifeguard.web.drain import Drain
from lifeguard.web.excess import excess
from lifeguard.web.failures import cause_of, told
from lifeguard.web.gate import TURNED_AWAY
from lifeguard.web.lanes import NO_PRIORITY, Lanes, priority_of

_SWITCHING = 101
_FORBIDDEN = 403
_UNAVAILABLE = 503
# Close codes of RFC 6455 and of its registry.
_INTERNAL_ERROR, _SERVICE_RESTART, _TRY_AGAIN_LATER = 1011, 1012, 1013
# Seconds for the close frame to get out, when its endpoint has ended already.
_LAST_WORD = 1.0
_HTTP_ANSWER = "websocket.http.response"


def _foreign(scope: Scope) -> Exception | None:
    return problems.ForeignOrigin() if origins.is_foreign(scope) else None


class _Closed(OSError):
    """Sent on a socket that the drain has closed. Starlette makes a WebSocketDisconnect of an OSError."""


class SocketMiddleware:
    """Runs every WebSocket as one `SocketExchange`; requests pass it by."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        drain: Drain,
        metrics: Metrics,
        lanes: Lanes | None = None,
        tokens: ConsistencyTokens,
    ) -> None:
        """Without `lanes` all of them borrow in one."""
        self.app = app
        self.lanes = lanes
        self.tokens = tokens
        self.drain = drain
        self.metrics = metrics
        self.log = structlog.get_logger("lifeguard.socket").bind()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "websocket":
            return self._serve(scope, receive, send)
        return self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        tag = dict(scope["headers"]).get(b"x-request-id", b"")
        call = CallScope(
            tag=tag.decode("ascii") if request_head.is_valid_id(tag) else request_head.new_id(),
            caller=RequestCaller(scope),
        )
        token = call_scope.set(call)
        task = self.drain.enter(f"WEBSOCKET {request_head.shown_path(scope)} {call.tag}")
        try:
            await SocketExchange(self, scope, send, task, call).run(receive)
        finally:
            self.drain.leave(task)
            call_scope.reset(token)


class SocketExchange:
    """One WebSocket."""

    def __init__(
        self,
        middleware: SocketMiddleware,
        scope: Scope,
        send: Send,
        task: asyncio.Task[object],
        call: CallScope,
    ) -> None:
        self._middleware = middleware
        self._scope = scope
        self._send = send
        self._task = task
        self._call = call
        self._started = perf_counter()
        self._status = 0  # until the handshake is answered
        self._closed = False
        self._ended = False
        """Whether the drain has closed it."""
        self._closing: asyncio.Task[None] | None = None

    async def run(self, receive: Receive) -> None:
        drain = self._middleware.drain
        drain.end_in_time(self._task, self._end)
        cookies = sum(
            request_head.cookies_in(value) for name, value in self._scope["headers"] if name == b"cookie"
        )
        wanted = dict(self._scope["headers"]).get(b"x-request-priority")
        priority = priority_of(wanted) if wanted is not None else None
        refusal = excess(self._scope, cookies) or _foreign(self._scope)
        if wanted is not None and priority is None:
            refusal = refusal or problems.BadRequest(NO_PRIORITY)
        refusal = refusal or self._middleware.tokens.note(self._scope["headers"], self._call)
        if refusal:
            await self._fail(refusal)
            return
        if (lanes := self._middleware.lanes) is not None:
            self._call.lane, self._call.priority, _ = lanes.place_of(self._scope, priority)
        try:
            await self._middleware.app(self._scope, receive, self.send)
        except (WebSocketDisconnect, _Closed):
            pass  # the usual end of an endpoint that waits for its client
        except asyncio.CancelledError:
            if not (self._ended or drain.time_is_up):
                raise
            self._task.uncancel()
            await self._fail(problems.ShuttingDown(headers={"Retry-After": "1"}))
        except Exception as error:  # noqa: BLE001 - here it becomes an answer or a close code, and a log line
            await self._fail(error)
        finally:
            if self._closing is not None:
                await asyncio.wait({self._closing}, timeout=_LAST_WORD)

    async def send(self, message: Message) -> None:
        """The app's `send`: notes what becomes of the handshake, and that it closes."""
        kind = message["type"]
        if self._ended:
            raise _Closed
        if kind == "websocket.accept":
            headers = [*message.get("headers", ()), (b"x-request-id", self._call.tag.encode("ascii"))]
            message = {**message, "headers": headers}
            self._note(_SWITCHING)
        elif kind == f"{_HTTP_ANSWER}.start":
            message = {**message, "headers": complete(message.get("headers", ()), self._call.tag)}
            self._closed = True
            self._note(message["status"])
        elif kind == "websocket.close":
            self._closed = True
            if not self._status:
                self._note(_FORBIDDEN)
        await self._send(message)

    def _end(self) -> None:
        """Close it: the time of streams is up. An endpoint that does not notice is cancelled later."""
        if self._closed:
            return
        if not self._status:
            self._ended = True
            self._task.cancel("the service is shutting down")
            return
        self._closing = asyncio.get_running_loop().create_task(self._close(_SERVICE_RESTART))
        self._ended = True
        self._middleware.drain.end_in_time(self._task, self._cancel)

    def _cancel(self) -> None:
        self._task.cancel("the service is shutting down")

    async def _close(self, code: int) -> None:
        self._closed = True
        with suppress(OSError):  # the client is gone already
            await self._send({"type": "websocket.close", "code": code})

    async def _fail(self, error: Exception) -> None:
        """Say that it failed: by a problem instead of the handshake, or by a close code."""
        error = cause_of(error)
        problem = problems.problem_of(error)
        if not isinstance(error, problems.ShuttingDown):
            level, fields = told(error)
            self._middleware.log.log(level, "socket_failed", route=route_template(self._scope), **fields)
        if self._closed:
            return
        if self._status:
            shutting_down = isinstance(error, problems.ShuttingDown)
            later = _SERVICE_RESTART if shutting_down else _TRY_AGAIN_LATER
            await self._close(later if problem.status == _UNAVAILABLE else _INTERNAL_ERROR)
        elif _HTTP_ANSWER in self._scope.get("extensions", {}):
            self._ended = False
            response = problems.rendered(HTTPConnection(self._scope), error)
            start, rest = answer_types(self._scope)
            await self.send({"type": start, "status": response.status_code, "headers": response.raw_headers})
            await self.send({"type": rest, "body": response.body})
        else:  # such a server answers 403, whatever the code
            await self.send({"type": "websocket.close", "code": _INTERNAL_ERROR})

    def _note(self, status: int) -> None:
        """Count and log the handshake, as the request that it is."""
        self._status = status
        if TURNED_AWAY in self._scope:
            self._middleware.metrics.count("GET", self._scope[TURNED_AWAY], status)
            return
        seconds = perf_counter() - self._started
        route = route_template(self._scope)
        self._middleware.metrics.observe("GET", route, status, seconds)
        self._middleware.log.info(
            "handshake",
            path=request_head.shown_path(self._scope),
            route=route,
            status=status,
            duration_ms=round(seconds * 1000, 2),
            client=client_of(self._scope),
        )
