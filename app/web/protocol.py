"""uvicorn's HTTP/1.1, and what only the owner of a connection can do: refuse at once, hang up on the idle.

    python -m app serve
    uvicorn app.main:app --http app.web.protocol:Protocol

An ASGI app sees a request when its head is complete, in a task of its own. That is late for two things.
Under ten times the load most requests are refused, and the way to the app costs more than the refusal:
here it is one write. And a client that sends its head a byte a minute, or takes the answer as slowly,
never gets to the app or has long left it, and uvicorn bounds neither.

Without this class the service does the same work in the same way, at a higher price (the gate is a
middleware as well), and whatever stands in front of it must bound slow clients.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import structlog
from typing_extensions import override
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.web import heading, problems
from app.web.client import forwarded_client
from app.web.ready_made import ReadyMade
from app.web.service import Service

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent

    from app.web.state import State

PATIENCE = 10.0
"""Seconds for the head of a request, as HAProxy's `timeout http-request` is usually set, and for what is
left of a request that is answered already."""
WRITE_PATIENCE = 30.0
"""Seconds in which a client must take something of its answer."""
LINGER = 2.0
"""Seconds to read on after the last word: closing at once could destroy it on its way."""
LARGEST_HEADER = 32 * 1024
"""Bytes of a request's head, as many as nginx takes. One that comes slowly may be longer by a read."""

_TIMEOUT = ReadyMade(problems.RequestTimeout())
_TOO_LARGE = ReadyMade(problems.HeadersTooLarge())
_UNREADABLE = ReadyMade(problems.BadRequest())
_CLOSE = b"connection: close\r\n"
_MAY_BE_REFUSED = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE"))  # not HEAD: its answer has no body


_log = structlog.get_logger("app.request")

# uvicorn and websockets write lines for each socket, with the query, where secrets travel. The service
# writes its own.
_socket_log = logging.getLogger("uvicorn.error.websocket")
_socket_log.setLevel(logging.WARNING)


class _Answered:
    """Stands where uvicorn keeps a connection's request: all are answered, what still comes is ignored."""

    response_complete = True
    message_event = asyncio.Event()


_ANSWERED = cast("RequestResponseCycle", _Answered())


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self._parts = cast("State", self.app_state) if "gate" in self.app_state else None
        """Without them, which another app does not have, nobody is refused."""
        self._may_refuse = _meets_requests_first(self.app)
        if self.ws_protocol_class is not None:
            self.ws_protocol_class = SocketProtocol
        self.cycle = _ANSWERED
        self._running = _ANSWERED
        """The request whose task runs. `cycle` is the one that came last, and may have to wait for it."""
        self._in_head = False
        self._in_request = False
        self._newest_bytes = 0
        self._more_of_head = 0
        """Bytes that came after the read in which the head began."""
        self._deaf = False
        """Whether the last word is said: what still comes is not read."""
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        self._await(PATIENCE, self._head_is_late)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_more()
        self._stop_write_timer()
        if not self._running.response_complete:  # uvicorn tells `cycle` alone
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    @override
    def shutdown(self) -> None:
        if self._parts:
            self._parts["drain"].begin()  # unless a signal has: uvicorn now waits for streams to end
        super().shutdown()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    # -- reading -----------------------------------------------------------------------------------

    @override
    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._newest_bytes = len(data)
        if self._in_head:
            self._more_of_head += len(data)
        super().data_received(data)
        self._look_at_what_is_missing()

    def _look_at_what_is_missing(self) -> None:
        """See to it that something ends every wait."""
        if self._deaf or self.transport.is_closing():
            return
        if self._in_head:
            if self._more_of_head > LARGEST_HEADER:
                self._give_up(_TOO_LARGE)
            elif self._read_timer is None:
                self._await(PATIENCE, self._head_is_late)
        elif self._is_answering or self._read_timer is not None:
            return
        elif self._in_request:
            self._await(PATIENCE, self.transport.abort)
        elif self.timeout_keep_alive_task is None:  # uvicorn's, cancelled by what was no request
            self._keep_alive()

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._more_of_head = 0

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer would get past whoever has looked at the headers
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deaf:
            return
        self._await_no_more()
        may_be_large = self._more_of_head or self._newest_bytes > LARGEST_HEADER
        if may_be_large and self._size_of_head() > LARGEST_HEADER:
            self._give_up(_TOO_LARGE)
        elif not self._turns_away():
            super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        self._in_request = False
        if not self._deaf:
            self._await_no_more()
            super().on_message_complete()

    @override
    def handle_websocket_upgrade(self) -> None:
        self._deaf = True  # another protocol has the connection from here on
        if self._is_answering:
            self.transport.close()  # what is under way would be written into the socket
        else:
            super().handle_websocket_upgrade()

    @override
    def send_400_response(self, msg: str) -> None:
        self._give_up(_UNREADABLE)

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    # -- refusing ----------------------------------------------------------------------------------

    def _turns_away(self) -> bool:
        """Answer the request if it could not be served in time. False: it is the app's to answer."""
        try:
            return self._asks_the_gate()
        except Exception:  # the parser would call it the client's fault
            self.logger.exception("a request could not be judged on arrival")
            return False

    def _asks_the_gate(self) -> bool:
        parts = self._parts
        if parts is None or not self._may_refuse or not self._is_ordinary:
            return False
        gate = parts["gate"]
        method, path = self._method, self.url.partition(b"?")[0].decode("ascii")
        tag, budget = b"", None
        for name, value in self.headers:
            if name == b"x-request-id" and heading.is_valid_id(value):
                tag = value
            elif name == b"x-request-timeout":
                budget = heading.seconds(value)
                if budget is None:
                    return False
        refusal = gate.refusal_on_arrival(method, path, self.headers, budget, self._client)
        if refusal is None:
            return False
        parts["metrics"].count(method, refusal.template, refusal.problem.status)
        retry_after = b"retry-after: %d\r\n" % refusal.retry_after
        if parts["drain"].draining or not self.parser.should_keep_alive():
            self._end(refusal.problem, tag, retry_after)
        else:
            self._write(refusal.problem, tag, retry_after)
            self.cycle = _ANSWERED
            super().on_response_complete()
        return True

    @property
    def _is_ordinary(self) -> bool:
        """Not so: what follows an unanswered request or answers that nobody takes, a prefix, a path to be
        decoded, an expectation, HEAD, HTTP/1.0. The app answers those, where the same gate stands.
        """
        return not (
            self._is_answering
            or self.flow.write_paused
            or self.root_path
            or self.expect_100_continue
            or b"%" in self.url
            or self._method not in _MAY_BE_REFUSED
            or self.parser.get_http_version() != "1.1"
            or self.parser.should_upgrade()
        )

    @property
    def _is_answering(self) -> bool:
        return not self.cycle.response_complete

    @property
    def _method(self) -> str:
        method: str = self.parser.get_method().decode("ascii")
        return method

    # -- answering ---------------------------------------------------------------------------------

    def _write(self, problem: ReadyMade, tag: bytes, *headers: bytes) -> None:
        """Answer the request `tag`, which gets an id if it has none."""
        lines = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        told = problem.message(tag or heading.new_id().encode(), *headers)
        self.transport.write(STATUS_LINE[problem.status] + b"".join(lines) + told)

    def _give_up(self, problem: ReadyMade) -> None:
        """Tell the client what is wrong with its request, as the last word."""
        if self._deaf:
            return
        if self._parts:
            self._parts["metrics"].count("unknown", "none", problem.status)
        _log.info(
            "request",
            method="unknown",
            route="none",
            status=problem.status,
            problem=problem.name,
            client=self._client(),
        )
        cycle = self.cycle
        in_body = self._in_request and not self._in_head
        if self._is_answering and in_body and cycle is self._running and not cycle.response_started:
            cycle.disconnected = True  # its body will not come to its end: nobody shall wait for that
            cycle.message_event.set()
            self.cycle = self._running = _ANSWERED
        self._end(problem)

    def _client(self) -> str | None:
        """Whose request this is. Before its first line it may be anybody's who uses the same proxy."""
        return forwarded_client(self.app, self.client, self.headers if self._in_request else ())

    def _end(self, problem: ReadyMade, tag: bytes = b"", *headers: bytes) -> None:
        """Say the last word on this connection: this, unless an answer is under way."""
        self._deaf = True
        self._await_no_more()
        if self._is_answering:
            self.cycle.keep_alive = False
            return
        self._write(problem, tag, _CLOSE, *headers)
        self.cycle = _ANSWERED
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._await(LINGER, self.transport.abort)

    @override
    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._start_write_timer()
        self._look_at_what_is_missing()

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    @override
    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the answer to the last request, still
            if self._write_timer is None:
                self._start_write_timer()
            self._keep_alive()
        else:
            super().timeout_keep_alive_handler()

    # -- waiting -----------------------------------------------------------------------------------

    def _await(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._read_timer = self.loop.call_later(seconds, otherwise)

    def _await_no_more(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _head_is_late(self) -> None:
        if not self._in_head:
            self.transport.close()  # nobody has said anything
        elif self._is_answering:
            self._await(PATIENCE, self._head_is_late)
        else:
            self._give_up(_TIMEOUT)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_write_timer()

    def _start_write_timer(self) -> None:
        self._stop_write_timer()
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_PATIENCE, self._look_at_reader, left)

    def _look_at_reader(self, then: int) -> None:
        left = self.transport.get_write_buffer_size()
        if left < then:
            self._start_write_timer()
        elif left:
            self.transport.abort()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _meets_requests_first(app: object) -> bool:
    """Whether a request that `app` refuses would meet nothing on its way but the house's own middleware.

    Where it would, for instance CORS, without whose headers a browser shows the refusal to nobody, the
    app refuses: dearer, and in the words of all.
    """
    while isinstance(app, ProxyHeadersMiddleware):  # uvicorn's, which changes no answer
        app = app.app
    return isinstance(app, Service) and app.meets_requests_first


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket, for `Protocol` has no use for a connection once it is one."""

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self.close_timeout = LINGER
        self.logger = self.conn.logger = _socket_log

    @override
    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.close_sent:  # uvicorn forgets it where an answer took the place of the handshake
            self.handshake_complete = True

    @override
    def shutdown(self) -> None:
        """Leave it to the service's drain to close this, if the app has one: uvicorn gives no time."""
        if "drain" in self.app_state:
            cast("State", self.app_state)["drain"].begin()  # unless a signal has
        else:
            super().shutdown()
