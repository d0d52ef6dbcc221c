"""A request and its answer on a connection: uvicorn's, and what it does not do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from lifeguard.server.refusals import CLOSE, rendered
from lifeguard.web.at_once import WritesWhole

_WITH_BODY = frozenset(range(200, 600)) - {204, 304}
_SMALL = 64 * 1024
"""Bytes of a body that are copied behind the head; of more, the copy costs more than a second write."""


class Cycle(RequestResponseCycle, WritesWhole):
    """Says when the app has taken some of the body, and writes whole answers in one go.

    A client that has waited in vain for 100 Continue may send its body or not. That body could not be told
    from the next request, so its connection ends with the answer.
    """

    on_taken: Callable[[], None] | None = None
    """Called when the app has taken some of the body, if there is one."""

    @classmethod
    def made_of(cls, cycle: RequestResponseCycle, on_taken: Callable[[], None] | None) -> None:
        """Make this of the one that uvicorn has made, and runs."""
        cycle.__class__ = cls
        assert isinstance(cycle, cls)
        if on_taken is not None:
            cycle.on_taken = on_taken

    @override
    async def receive(self) -> Any:  # ASGI's
        message = await super().receive()
        if self.on_taken is not None:
            self.on_taken()
        return message

    @override
    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]  # uvicorn's is a coroutine function
        if self.waiting_for_100_continue:
            self.keep_alive = False
        return super().send(message)

    @override
    def write_whole(self, status: int, lines: bytes, body: bytes) -> bool:
        fields = rendered(self.default_headers)
        if (
            self.response_started
            or self.flow.write_paused
            or self.access_log
            or fields is None
            or status not in _WITH_BODY
            or self.scope["method"] == "HEAD"
        ):
            return False
        if self.disconnected:
            return True  # nobody is told, as by `send`
        if self.waiting_for_100_continue:
            self.keep_alive = self.waiting_for_100_continue = False
        self.response_started = True
        self.chunked_encoding = False
        head = b"%b%b%b%b\r\n" % (STATUS_LINE[status], fields, lines, b"" if self.keep_alive else CLOSE)
        if len(body) <= _SMALL:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
        return True
