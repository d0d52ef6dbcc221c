"""uvicorn's HTTP/1.1, and what only the owner of a connection can do: refuse at once, hang up on the idle.

    python -m app serve
    uvicorn app.main:app --http lifeguard.server.protocol:Protocol

An ASGI app sees a request when its head is complete, in a task of its own. That is late for two things.
Under ten times the load most requests are refused, and the way to the app costs more than the refusal:
here it is one write. And a client that sends its head a byte a minute, or takes the answer as slowly,
never gets to the app or has long left it, and uvicorn bounds neither.

What ends a connection is in `connection`, what makes a request's scope in `request_protocol`. Here is whose
turn it is to be read, and what is refused.

Without this class the service does the same work in the same way, at a higher price (the gate is a
middleware as well), and whatever stands in front of it must bound slow clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade
from typing_extensions import override
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from lifeguard.server import framing, wrapped
from lifeguard.server.arrival import TurnedAway, meets_requests_first, turned_away
from lifeguard.server.cycle import Cycle
from lifeguard.server.framing import Head, Malformed
from lifeguard.server.line import line_of
from lifeguard.server.refusals import CLOSE, FAULTS, OVERLOADED, RETRY_AFTER_LINE, TIMEOUT, note
from lifeguard.server.request_protocol import RequestProtocol
from lifeguard.server.stand_ins import ANSWERED, Lingering
from lifeguard.server.unread import Unread
from lifeguard.web import problems
from lifeguard.web.buffered import Share
from lifeguard.web.client import forwarded_client
from lifeguard.web.gate import PreparedProblem

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application


PATIENCE = 10.0
"""Seconds for the head of a request, as HAProxy's `timeout http-request` is usually set, and for what is
left of a request that is answered already."""
LARGEST_HEADER = framing.LARGEST_HEADER
_MOST_READ_AHEAD = 64 * 1024  # bytes that wait for their turn before no more is read
_MOST_A_TURN = 32  # requests, or pieces of a body, that are looked at before others have their turn


class Protocol(RequestProtocol):
    """One connection, and on it one request after the other: the next is read when the last is answered."""

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self._share = Share(self._parts["buffered"] if self._parts else None)
        may_refuse = self._parts and not self.root_path and meets_requests_first(self.config.loaded_app)
        self._gate = self._parts["gate"] if self._parts and may_refuse else None
        self.cycle = ANSWERED
        self._unread = Unread()
        """What has come and has not been given to the parser."""
        self._is_unparsed = False
        """Whether the parser has seen nothing of the request, whose body is still to come."""
        self._next_turn: asyncio.Handle | None = None
        self._line = line_of(self.loop)
        self._is_in_line = False
        self._is_first = False
        """Whether it is the turn of its next request."""
        self._is_behind = False
        """Whether what is unread came before the request ahead of it was answered."""

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        if not self._deaf:
            self._await(PATIENCE, self._head_is_late)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._read_no_more()
        super().connection_lost(exc)

    @override
    def shutdown(self) -> None:
        if self._parts:
            self._parts["drain"].begin()  # unless a signal has: uvicorn now waits for streams to end
        if self._is_in_line:  # it has come before the end, and is served
            self._have_turn()
        super().shutdown()

    # -- reading -----------------------------------------------------------------------------------

    @override
    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._is_next_head(data) and self._line.admits():
            self._unset_keepalive_if_required()
            self._parse_head(data)
            self._look_at_what_is_missing()
        else:
            if not self._unread and not self._in_request and not self._is_answering:
                self._is_behind = False
            self._unread += data
            self._go_on()

    def _is_next_head(self, data: bytes) -> bool:
        """Whether this is a request and nothing else, and it is its turn: most reads are so."""
        if self._unread or self._in_request or self._is_answering or self.flow.write_paused:
            return False
        return data.find(framing.HEAD_END) == len(data) - 4 >= 0 and not data.startswith(b"\r")

    def _go_on(self) -> None:
        """Give the parser what has its turn; see that the rest is counted, and does not wait for ever."""
        if self._deaf:
            return
        if self._next_turn is None:
            for _ in range(_MOST_A_TURN):
                if not self._has_turn or not self._parse_piece():
                    break
            else:
                if self._has_turn:
                    self._next_turn = self.loop.call_soon(self._take_turn)
        if not self._deaf:
            self._settle()
        self._look_at_what_is_missing()

    def _take_turn(self) -> None:
        self._next_turn = None
        self._go_on()

    def _may_begin(self) -> bool:
        """Whether it is the turn of the next request. If not, it stands in line."""
        if self._is_first or (not self._is_behind and self._line.admits()):
            self._is_first = False
            return True
        self._is_in_line = True
        self._line.stand(self._have_turn, behind=self._is_behind)
        return False

    def _have_turn(self) -> bool:
        if not self._is_in_line:  # shut down meanwhile, when it was served at once
            return False
        self._is_in_line, self._is_first = False, True
        self._go_on()
        is_used, self._is_first = not self._is_first, False
        return is_used

    @property
    def _has_turn(self) -> bool:
        if not self._unread or self._is_in_line or self._deaf or self.transport.is_closing():
            return False
        if self._in_request:  # a body, as far as it is used or ignored
            return not self._is_answering or len(self.cycle.body) <= HIGH_WATER_LIMIT
        return not self._is_answering and not self.flow.write_paused

    def _parse_piece(self) -> bool:
        """Give the parser a head, or what there is of a body. False: it takes more bytes for that."""
        if not self._in_request:
            head = self._take_head()
            return bool(head) and self._parse_head(head)
        assert self._body
        try:
            size = self._body.take(self._unread)
        except Malformed as fault:
            self._give_up(FAULTS[fault.problem])
            return False
        piece = bytes(self._unread[:size])
        del self._unread[:size]
        if not self._is_unparsed:
            self._parse(piece)
        elif self._body.is_whole:
            self._is_unparsed = False
            self.on_message_complete()
        return size > 0

    def _parse_head(self, came: bytes) -> bool:
        self._asks_for_head = came.startswith(b"HEAD ")
        self._is_behind = True  # what follows, unless it comes when this has been answered
        try:
            head = framing.read_head(came)
        except Malformed as fault:
            self._give_up(FAULTS[fault.problem], head=came)
            return False
        self._body, self._is_forwarded = head.body, head.is_forwarded
        if not self._turns_away(head):
            self._parse(head.raw)
        return True

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except HttpParserInvalidMethodError:
            self._give_up(FAULTS[problems.MethodNotImplemented])
        except HttpParserError:
            self._give_up(FAULTS[problems.BadRequest])

    def _take_head(self) -> bytes:
        """Take a head from what is unread; nothing, if it is not whole."""
        size = self._unread.size_of_head()
        if size is None:
            return b""
        self._unset_keepalive_if_required()
        if not size:
            self._look_at_beginning()
            return b""
        return self._unread.take_head(size) if self._may_begin() else b""

    def _look_at_beginning(self) -> None:
        self._asks_for_head = self._unread.startswith(b"HEAD ")
        try:
            self._unread.check_beginning()
        except Malformed as fault:
            self._give_up(FAULTS[fault.problem])

    def _settle(self) -> None:
        """Stop reading where enough is there, and have it counted."""
        unread, flow, body = len(self._unread), self.flow, len(self.cycle.body)
        if not unread and not body and not flow.read_paused:
            self._share.hold(0)
            return
        flow.has_enough = unread > 0 and (unread > _MOST_READ_AHEAD or flow.write_paused)
        if flow.has_enough:
            flow.pause_reading()
        elif body <= HIGH_WATER_LIMIT:
            flow.resume_reading()
        if not self._share.hold(unread + body) and unread and not self._in_request:
            self._give_up(
                OVERLOADED, RETRY_AFTER_LINE
            )  # bodies that the app reads are the middleware's to refuse

    def _read_no_more(self) -> None:
        self._deaf = True
        self._await_no_more()
        self._unread.clear()
        self._share.hold(0)

    def _look_at_what_is_missing(self) -> None:
        """See to it that something ends every wait."""
        if self._deaf or self._is_answering or self._read_timer is not None or self.transport.is_closing():
            return
        if self._next_turn is not None or self._is_in_line:
            return
        if self._in_request:
            self._await(PATIENCE, self.transport.abort)
        elif self._unread:
            self._await(PATIENCE, self._head_is_late)
        elif self.timeout_keep_alive_task is None:  # uvicorn's, cancelled by what was no request
            self._keep_alive()

    @override
    def on_message_complete(self) -> None:
        self._in_request = False
        self._body = None
        if not self._deaf:
            self._await_no_more()
            super().on_message_complete()

    @override
    def handle_websocket_upgrade(self) -> None:
        # Imported for the first socket, and not for the start.
        from lifeguard.server.socket_protocol import SocketProtocol  # noqa: PLC0415

        self.ws_protocol_class = SocketProtocol
        early = bytes(self._unread)
        self._read_no_more()  # another protocol has the connection from here on
        self.flow.has_enough = False
        self.flow.resume_reading()
        super().handle_websocket_upgrade()
        if early:
            cast("SocketProtocol", self.transport.get_protocol()).data_received(early)

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        Cycle.made_of(cycle, self._go_on if self._body is not None else None)
        if self.parser.get_http_version() == "1.0":
            app = wrapped.without_chunks(cycle, app)
        super()._start_asgi_task(cycle, app)
        self._line.begun()

    # -- refusing ----------------------------------------------------------------------------------

    def _turns_away(self, head: Head) -> bool:
        """Answer the request if it could not be served in time. False: it is the app's to answer."""
        if self._gate is None:
            return False
        try:
            told = turned_away(head, self._gate, self._client_of, self.app_state)
        except Exception:
            self.logger.exception("a request could not be judged on arrival")
            return False
        if told is None:
            return False
        self._await_no_more()
        self._refuse(told)
        return True

    def _refuse(self, told: TurnedAway) -> None:
        assert self._parts
        refusal, method, tag, closes = told
        self._parts["metrics"].count(method, refusal.template, refusal.problem.status)
        retry_after = b"retry-after: %d\r\n" % refusal.retry_after
        if closes or self._parts["drain"].draining:
            self._end(refusal.problem, tag, retry_after)
            return
        self._write(refusal.problem, tag, retry_after)
        self._is_answered = True
        self._in_request = self._is_unparsed = self._body is not None
        self.cycle = ANSWERED
        super().on_response_complete()

    @property
    def _is_answering(self) -> bool:
        return not self.cycle.response_complete

    # -- answering ---------------------------------------------------------------------------------

    def _give_up(self, problem: PreparedProblem, *headers: bytes, head: bytes = b"") -> None:
        """Tell the client what is wrong with its request, as the last word. `head` is it where it is read."""
        if self._deaf:
            return
        cycle = self.cycle
        if self._in_request and self._is_answering and not cycle.response_started:
            cycle.disconnected = True  # its body will not come to its end: nobody shall wait for that
            cycle.message_event.set()
            self.cycle = ANSWERED
        if not self._is_answering and not (self._in_request and self._is_answered):
            note(self._parts, problem, self._client(head))
        self._end(problem, b"", *headers)

    def _client(self, head: bytes) -> str | None:
        """Whose request this is. Without a word in its head it may be anybody's who uses the same proxy."""
        if self._in_request and not self._is_unparsed:
            return self._client_of(self.headers)
        return self._client_of(framing.forwarded_for(head or bytes(self._unread[:LARGEST_HEADER])))

    def _client_of(self, fields: Iterable[tuple[bytes, bytes]]) -> str | None:
        return forwarded_client(self.config.loaded_app, self.client, fields)

    def _end(self, problem: PreparedProblem, tag: bytes, *headers: bytes) -> None:
        """Say the last word on this connection: this, unless the request has its answer, or gets it now."""
        self._read_no_more()
        self.flow.has_enough = False
        self.flow.resume_reading()  # to hear of its end
        if self._is_answering:
            self.cycle.keep_alive = False
            self.cycle.transport = cast("asyncio.Transport", Lingering(self.transport, self._linger))
            return
        if not (self._in_request and self._is_answered):
            self._write(problem, tag, CLOSE, *headers)
        self.cycle = ANSWERED
        self._linger()

    @override
    def on_response_complete(self) -> None:
        self._is_answered = True
        super().on_response_complete()
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._write_deadline.start()
        self._go_on()

    def _head_is_late(self) -> None:
        if not self._unread:
            self.transport.close()  # nobody has said anything
        elif self._is_answering or self.flow.write_paused:
            self._await(PATIENCE, self._head_is_late)
        else:
            self._give_up(TIMEOUT)

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread and self._next_turn is None and not self.transport.is_closing():
            self._next_turn = self.loop.call_soon(self._take_turn)
