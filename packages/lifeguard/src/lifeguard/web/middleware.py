"""What happens around every request, in one ASGI middleware: each further one would cost again.

It gives the request an identity and a deadline, bounds its body in bytes and time, completes the
headers of the answer, turns unforeseen errors into `internal`, counts, and writes the log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Hashable, Iterable
from time import perf_counter
from typing import Protocol

import structlog
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from lifeguard.database import CallScope, call_scope
from lifeguard.observability import AlreadyLogged, Metrics
from lifeguard.web import problems, request_head
from lifeguard.web.answer_headers import complete, rendered
from lifeguard.web.at_once import Headers, TakesWhole, WritesWhole, owner_of
from lifeguard.web.body_limit import BodyLimit
from lifeguard.web.buffered import Buffered, Share
from lifeguard.web.caller import RequestCaller, route_template
from lifeguard.web.consistency import SAFE_METHODS, ConsistencyTokens
from lifeguard.web.drain import Drain
from lifeguard.web.excess import excess
from lifeguard.web.failures import cause_of, told, words_of
from lifeguard.web.hangup import Line
from lifeguard.web.lanes import NO_PRIORITY, Lanes, priority_of
from lifeguard.web.request_log import RequestLog

# Seconds that a body may take, and the bytes of it that add a second: a client that sends as slowly as it
# can must not hold a request open without end.
_BODY_PATIENCE = 10.0
_SLOWEST_BODY = 8192
_LONGEST_LENGTH = 18  # digits; of more, int() makes an error, or takes its time
_NO_TIMEOUT = f"X-Request-Timeout must be seconds, {request_head.SHORTEST_TIMEOUT} or more, as 2 or 0.5."
_READ = frozenset(
    (
        *(b"content-length", b"transfer-encoding", b"cookie"),
        *(b"x-request-id", b"x-request-timeout", b"x-request-priority"),
    )
)
"""Headers that are looked at here."""
_EVENT_STREAM = b"text/event-stream"
_SERVER_ERROR = 500
_REQUEST_TIMEOUT = 408
_PAYLOAD_TOO_LARGE = 413


BEGUN = "lifeguard.begun"
"""In the scope of a request that failed here: whether its answer had begun."""


class RequestMiddleware:
    """Runs every HTTP request as one `RequestExchange`."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_limit: BodyLimit,
        buffered: Buffered,
        drain: Drain,
        metrics: Metrics,
        lanes: Lanes | None = None,
        tokens: ConsistencyTokens,
    ) -> None:
        """Without `lanes` all requests borrow in one."""
        self.app = app
        self.lanes = lanes
        self.tokens = tokens
        self.body_limit = body_limit
        self.buffered = buffered
        self.drain = drain
        self.layer: Layer | None = None
        """What does the work of the middlewares behind this one, where it can; see `lifeguard.web.layer`."""
        self.log = structlog.get_logger("lifeguard.request").bind()  # bound once: this path is hot
        self.request_log = RequestLog(metrics, self.log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = RequestExchange(self, scope, receive, send)
        token = call_scope.set(exchange.call)
        task = self.drain.enter(f"{scope['method']} {request_head.shown_path(scope)} {exchange.call.tag}")
        try:
            await exchange.run(task)
        except Exception:
            scope[BEGUN] = exchange.has_begun
            raise
        finally:
            self.drain.leave(task)
            exchange.share.hold(0)
            exchange.note()
            call_scope.reset(token)


class Layer(Protocol):
    """What `lifeguard.web.layer` makes of the middlewares behind this one."""

    def takes(self, scope: Scope) -> bool:
        """Whether this request is for it."""

    def serve(self, exchange: RequestExchange, scope: Scope, receive: Receive) -> Awaitable[None]:
        """Serve it."""


class RequestExchange(TakesWhole):
    """One request, its answer, and what its endpoint does after that."""

    __slots__ = (
        "_body_bytes",
        "_body_is_awaited",
        "_broken_off",
        "_complete",
        "_ended",
        "_later",
        "_middleware",
        "_most_body_bytes",
        "_noted",
        "_receive",
        "_refusal",
        "_scope",
        "_send",
        "_started",
        "_status",
        "_task",
        "call",
        "line",
        "share",
    )

    def __init__(self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = perf_counter()
        self._status = 0  # until the answer begins
        self._complete = False
        self._noted = False
        self._ended = False
        """Whether it is a stream that the drain has ended."""
        self._broken_off = False
        """Whether it failed when its answer had begun."""
        self._body_bytes = 0
        self._most_body_bytes = 0
        self._body_is_awaited = False
        self._refusal: Exception | None = None
        self.line: Line | None = None
        """What listens for the client's end, where that is the layer's to do."""
        self.share = Share(middleware.buffered)
        """Of the bytes that the bodies of all requests hold."""
        self.call = CallScope(
            tag="", caller=RequestCaller(scope), notes_writes=scope["method"] not in SAFE_METHODS
        )
        headers, cookies, priority = scope["headers"], 0, None
        for name, value in [header for header in headers if header[0] in _READ]:
            if name == b"content-length":
                self._bound_body(value)
            elif name == b"transfer-encoding":
                self._await_body()
            elif name == b"x-request-id" and request_head.is_valid_id(value):
                self.call.tag = value.decode("ascii")
            elif name == b"x-request-timeout":
                self._set_deadline(value)
            elif name == b"x-request-priority":
                priority = priority_of(value)
                if priority is None:
                    self._refusal = problems.BadRequest(NO_PRIORITY)
            elif name == b"cookie":
                cookies += request_head.cookies_in(value)
        self._refusal = excess(scope, cookies) or self._refusal
        self._refusal = self._refusal or middleware.tokens.note(headers, self.call)
        self.call.tag = self.call.tag or request_head.new_id()
        self._later: Hashable | None = None
        if middleware.lanes is not None and not self._refusal:
            self.call.lane, self.call.priority, self._later = middleware.lanes.place_of(scope, priority)

    def _await_body(self) -> None:
        self._body_is_awaited = True
        self._most_body_bytes = self._middleware.body_limit.of(self._scope)

    def _bound_body(self, length: bytes) -> None:
        if length == b"0":
            return
        self._await_body()
        digits = length.lstrip(b"0")
        if digits.isdigit() and (len(digits) > _LONGEST_LENGTH or int(digits) > self._most_body_bytes):
            self._refusal = self._too_large()
        elif digits.isdigit() and not self._middleware.buffered.fits(int(digits)):
            self._refusal = problems.BodyTurnedAway()

    def _too_large(self) -> HTTPException:
        return _cut_off(_PAYLOAD_TOO_LARGE, f"At most {self._most_body_bytes} bytes.")

    def _set_deadline(self, text: bytes) -> None:
        seconds = request_head.seconds(text)
        if seconds is not None:
            self.call.deadline = asyncio.get_running_loop().time() + seconds
        else:
            self._refusal = problems.BadRequest(_NO_TIMEOUT)

    async def run(self, task: asyncio.Task[object]) -> None:
        """Have the request served in `task`, the current one, and answer it in any case."""
        self._task = task
        if self._refusal:
            await self._answer(self._refusal)
            return
        try:
            receive = self.receive if self._body_is_awaited else self._receive
            layer, scope = self._middleware.layer, self._scope
            if layer is not None and layer.takes(scope):
                await layer.serve(self, scope, receive)
            else:
                await self._middleware.app(scope, receive, self.send)
        except asyncio.CancelledError:
            came_to_an_end = await self._comes_to_an_end()
            if not came_to_an_end and not self._middleware.drain.time_is_up:
                raise
            task.uncancel()
            if not came_to_an_end:
                self._note_as_broken_off(problems.ShuttingDown())
                raise AlreadyLogged("the service is shutting down") from None
        except Exception as error:  # noqa: BLE001 - here it becomes an answer and a log line
            await self._answer(error)

    async def _comes_to_an_end(self) -> bool:
        """Finish what the drain has cancelled. False: half an answer must not look whole."""
        if self._ended and not self._complete:
            with contextlib.suppress(asyncio.CancelledError):  # the time is up, and the client does not read
                await self.send({"type": "http.response.body", "body": b""})
            return True
        if not self._middleware.drain.time_is_up:
            return False
        if not self._status:
            await self._answer(problems.ShuttingDown(headers={"Retry-After": "1"}))
        return self._complete

    def _end(self) -> None:
        self._ended = True
        if not self._complete:
            self._task.cancel("the service is shutting down")

    async def _answer(self, error: Exception) -> None:
        error = cause_of(error)
        log = self._middleware.log
        if self._complete:
            level, fields = told(error, foreseen=logging.ERROR)
            log.log(level, "work_after_answer_failed", **fields)
            return
        if self._status:
            # Too late for another answer. The server ends the connection, so that the client
            # does not take what it has for the whole.
            self._note_as_broken_off(error)
            level, fields = told(error)
            log.log(level, "answer_broken_off", route=route_template(self._scope), **fields)
            raise AlreadyLogged(words_of(error)) from error
        response = await problems.answer(Request(self._scope), error)
        if response.status_code == _SERVER_ERROR:
            log.error("unforeseen_error", exc_info=error)
        await response(self._scope, self._receive, self.send)

    def _note_as_broken_off(self, error: Exception) -> None:
        self._scope[problems.SCOPE_KEY] = (error, problems.problem_of(error))
        self._broken_off = True

    async def receive(self) -> Message:
        """Receive, and bound what comes until the body is whole."""
        if not self._body_is_awaited:
            return await self._receive()
        due = self._started + _BODY_PATIENCE + self._body_bytes / _SLOWEST_BODY
        try:
            async with asyncio.timeout(due - perf_counter()):
                message = await self._receive()
        except TimeoutError:
            raise _cut_off(_REQUEST_TIMEOUT) from None
        self._body_bytes += len(message.get("body", b""))
        fits = self.share.hold(self._body_bytes)
        self._body_is_awaited = message.get("more_body", False)
        if self._body_bytes > self._most_body_bytes:
            raise self._too_large()
        if not fits:
            raise problems.BodyTurnedAway
        return message

    async def send(self, message: Message) -> None:
        """Send, and complete the headers."""
        if message["type"] == "http.response.start":
            headers = complete(message.get("headers", ()), self.call.tag)
            self._status = message["status"]
            if self.call.written is not None:
                headers += self._middleware.tokens.headers(self.call)
            if self._middleware.drain.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
            if _is_event_stream(headers):
                self._middleware.drain.end_in_time(self._task, self._end)
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and self.line is not None:
            self.line.close()
        try:
            await self._send(message)
        except RuntimeError:  # uvloop's, of a connection whose end uvicorn has not heard of yet
            if self._complete or not await self._has_hung_up():
                raise
        if is_last:
            self._finish()

    @override
    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer, in one go if the server takes it so and nothing has to be added."""
        call, lines, writer = self.call, None, None
        if not self._status and call.written is None and not self._middleware.drain.draining:
            lines = rendered(headers, call.tag, len(body))
            writer = owner_of(self._send, WritesWhole)
        is_written = False
        if lines is not None and writer is not None:
            if self.line is not None:
                self.line.close()
            try:
                is_written = writer.write_whole(status, lines, body)
            except RuntimeError:  # as in `send`
                is_written = await self._has_hung_up()
                if not is_written:
                    self._status = status
                    raise
        if is_written:
            self._status = status
            self._finish()
        else:
            await self.send({"type": "http.response.start", "status": status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})

    def _finish(self) -> None:
        self._complete = True
        self.call.deadline = None  # nobody waits for what is done after the answer
        self.call.lane, self.call.priority = self._later, "background"
        self.note()

    @property
    def has_begun(self) -> bool:
        """Whether its answer has."""
        return self._status != 0

    @property
    def awaits_body(self) -> bool:
        """Whether some of its body is still to come."""
        return self._body_is_awaited

    async def _has_hung_up(self) -> bool:
        """Whether the client is gone. The server may learn that only in the next turn of the event loop."""
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True

    def note(self) -> None:
        """Count and log what came of it, once: when the answer is out, or will not come any more."""
        if not self._noted:
            self._noted = True
            seconds = perf_counter() - self._started
            self._middleware.request_log.note(
                self._scope, self.call, self._status, seconds, broken_off=self._broken_off
            )


def _is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value.startswith(_EVENT_STREAM)
    return False


def _cut_off(status: int, detail: str | None = None) -> HTTPException:
    """Make the answer to a body that is not read to its end. What is left of it is not a request."""
    return HTTPException(status, detail, headers={"Connection": "close"})
