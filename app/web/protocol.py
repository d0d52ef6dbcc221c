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
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.web import heading, problems
from app.web.ready_made import ReadyMade

if TYPE_CHECKING:
    from app.web.state import State

HEADER_PATIENCE = 10.0
"""Seconds for the head of a request, as HAProxy's `timeout http-request` is usually set."""
WRITE_PATIENCE = 30.0
"""Seconds in which a client must take something of its answer."""
LINGER = 2.0
"""Seconds to read on after the last answer: closing at once could destroy it on its way."""
LARGEST_HEADER = 32 * 1024
"""Bytes of a request's head, as many as nginx takes."""

_TIMEOUT = ReadyMade(problems.RequestTimeout())
_TOO_LARGE = ReadyMade(problems.HeadersTooLarge())
_UNREADABLE = ReadyMade(problems.BadRequest())
_CLOSE = b"connection: close\r\n"
_MAY_BE_REFUSED = frozenset(("GET", "POST", "PUT", "PATCH", "DELETE"))  # not HEAD: its answer has no body


class _Answered:
    """Stands where uvicorn keeps a connection's request: all are answered, what still comes is ignored."""

    response_complete = True
    message_event = asyncio.Event()


_ANSWERED = cast("RequestResponseCycle", _Answered())


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self._parts = cast("State | None", self.app_state or None)
        """Without them, which another app does not have, nobody is refused."""
        self.cycle = _ANSWERED
        self._in_head = False
        self._in_request = False
        self._head_bytes = 0
        """How many have come of the head that is being read, or of whatever came with its beginning."""
        self._newest_bytes = 0
        self._deaf = False
        """Whether the last word is said: what still comes is not read."""
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        self._await(HEADER_PATIENCE, self._head_is_late)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._await_no_more()
        self._stop_write_timer()
        super().connection_lost(exc)

    # -- reading -----------------------------------------------------------------------------------

    @override
    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._newest_bytes = len(data)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_request and not self._deaf:
            self._look_at_what_is_missing()

    def _look_at_what_is_missing(self) -> None:
        if not self._in_head:
            self._linger()
        elif self._head_bytes > LARGEST_HEADER:
            self._end(_TOO_LARGE)
        elif self._read_timer is None:
            self._await(HEADER_PATIENCE, self._head_is_late)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._head_bytes = self._newest_bytes

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # a trailer would get past whoever has looked at the headers
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        self._in_head = False
        self._await_no_more()
        if self._deaf:
            return
        if self._head_bytes > LARGEST_HEADER and self._size_of_head() > LARGEST_HEADER:
            self._end(_TOO_LARGE)
        elif not self._turns_away():
            super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        if not self._deaf:
            super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        self._in_request = False
        self._await_no_more()
        if not self._deaf:
            super().on_message_complete()

    @override
    def send_400_response(self, msg: str) -> None:
        self._end(_UNREADABLE)

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    # -- refusing ----------------------------------------------------------------------------------

    def _turns_away(self) -> bool:
        """Answer the request if it could not be served in time. False: it is the app's to answer."""
        parts = self._parts
        if parts is None or not self._is_ordinary:
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
        if not gate.has_final_say(path) or not (refusal := gate.refusal_on_arrival(method, path, budget)):
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
        """Not so: what follows an unanswered request, a prefix, a path to be decoded, an expectation, HEAD,
        HTTP/1.0.

        The app answers those, where the same gate stands.
        """
        return not (
            self._is_answering
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
        if self.transport.is_closing():
            if self.transport.get_write_buffer_size():
                self._start_write_timer()
        elif self._in_request:
            self._linger()

    def _linger(self) -> None:
        """Whoever has his answer, and goes on sending what it was about, has little time for that."""
        if not self._is_answering and self._read_timer is None:
            self._await(LINGER, self.transport.abort)

    @override
    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the answer to the last request, still
            self.transport.abort()
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
            self._await(HEADER_PATIENCE, self._head_is_late)
        else:
            self._end(_TIMEOUT)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._start_write_timer()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def _start_write_timer(self) -> None:
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(WRITE_PATIENCE, self.transport.abort)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
