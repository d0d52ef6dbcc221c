"""uvicorn's WebSockets, with a bound on what one client can make the process hold.

What was read waits in one place until it is taken: while the handshake is not answered, while a message
waits for the app, while answers (pongs, for one) are not taken. Then no more is read.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from lifeguard.server.write_deadline import WriteDeadline
from lifeguard.web.buffered import Share

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
    from websockets.frames import Frame

    from lifeguard.web.state import State

CLOSE_PATIENCE = 2.0
"""Seconds that a client has to answer a close frame."""
_MOST_A_TURN = 4096  # bytes: hundreds of the smallest frames, a few milliseconds of the event loop
_TRY_AGAIN_LATER = 1013

# uvicorn and websockets write lines for each socket, with the query, where secrets travel. The service
# writes its own.
_socket_log = logging.getLogger("uvicorn.error.websocket")
_socket_log.setLevel(logging.WARNING)


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket. `Protocol` hands a connection over to it after the handshake's head."""

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self.close_timeout = CLOSE_PATIENCE
        self.logger = self.conn.logger = _socket_log
        self._unread = bytearray()
        self._message = bytearray()
        """The fragments of a message that is not whole yet."""
        self._next_turn: asyncio.Handle | None = None
        self._share = Share(
            cast("State", self.app_state)["buffered"] if "buffered" in self.app_state else None
        )

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        self._write_deadline = WriteDeadline(self.loop, transport)

    # -- reading -----------------------------------------------------------------------------------

    @override
    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:  # its head, from `Protocol`, which has looked at it
            super().data_received(data)
            return
        self._unread += data
        self._go_on()

    def _go_on(self) -> None:
        """Take a little of what is there, if it can be used now."""
        if self._has_turn and self._next_turn is None:
            piece = bytes(self._unread[:_MOST_A_TURN])
            del self._unread[:_MOST_A_TURN]
            super().data_received(piece)
            if self._has_turn:
                self._next_turn = self.loop.call_soon(self._take_turn)
        self._settle()

    def _take_turn(self) -> None:
        self._next_turn = None
        self._go_on()

    @property
    def _has_turn(self) -> bool:
        return (
            len(self._unread) > 0
            and self.handshake_complete
            and not self.read_paused
            and self.writable.is_set()
            and not self.transport.is_closing()
        )

    def _settle(self) -> None:
        if self.transport.is_closing():
            self._unread.clear()
            self._message.clear()
        elif self._unread or not self.writable.is_set():
            self.transport.pause_reading()
        elif not self.read_paused:  # uvicorn's, while a message waits for the app
            self.transport.resume_reading()
        if not self._share.hold(len(self._unread) + len(self._message)):
            self._give_up()

    def _give_up(self) -> None:
        self._unread.clear()
        if self.handshake_complete and not self.close_sent:
            self.conn.fail(_TRY_AGAIN_LATER, "too much is under way")
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.transport.close()

    # uvicorn keeps each fragment as an object. Empty ones never reach a limit of bytes: join them at once.

    @override
    def handle_text(self, event: Frame) -> None:
        self._begin("text", event)

    @override
    def handle_bytes(self, event: Frame) -> None:
        self._begin("bytes", event)

    def _begin(self, kind: Any, event: Frame) -> None:  # uvicorn's Literal
        self.curr_msg_data_type = kind
        self._message = bytearray(event.data)
        self._end_with(event)

    @override
    def handle_cont(self, event: Frame) -> None:
        self._message += event.data
        self._end_with(event)

    def _end_with(self, event: Frame) -> None:
        if event.fin:
            self.frames = [bytes(self._message)]
            self._message.clear()
            self.send_receive_event_to_app()

    @override
    async def receive(self) -> ASGIReceiveEvent:
        message = await super().receive()
        self._go_on()
        return message

    # -- writing -----------------------------------------------------------------------------------

    @override
    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.close_sent:  # uvicorn forgets it where an answer took the place of the handshake
            self.handshake_complete = True
        self._go_on()

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline.start()
        self._settle()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline.stop()
        if self._next_turn is None:
            self._next_turn = self.loop.call_soon(self._take_turn)

    # -- the end -----------------------------------------------------------------------------------

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._write_deadline.stop()
        self._unread.clear()
        self._message.clear()
        self._share.hold(0)
        super().connection_lost(exc)

    @override
    def shutdown(self) -> None:
        """Let the service's drain close the socket, if the app has one: uvicorn would close it at once."""
        if "drain" in self.app_state:
            cast("State", self.app_state)["drain"].begin()  # unless a signal has
        else:
            super().shutdown()
