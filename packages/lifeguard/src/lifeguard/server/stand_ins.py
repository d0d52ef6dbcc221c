"""What stands in the place of parts of uvicorn, where the protocol wants another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from uvicorn.protocols.http.flow_control import FlowControl

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class _Answered:
    """Stands where uvicorn keeps a connection's request: it is answered, what still comes is ignored."""

    response_complete = True
    message_event = asyncio.Event()
    body = b""


ANSWERED = cast("RequestResponseCycle", _Answered())


class Lingering:
    """A transport whose `close` is another: for a request whose answer is the last word."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Flow(FlowControl):
    """uvicorn's, which reads on whenever a request is answered or its body is asked for."""

    has_enough = False
    """Whether what has been read waits for its turn, so that no more shall be read."""

    @override
    def resume_reading(self) -> None:
        if not self.has_enough:
            super().resume_reading()
