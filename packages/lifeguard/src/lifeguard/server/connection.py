"""One connection's time and its end: how long it is waited for, what it is told, and how it is closed.

Nothing here knows what has been read. `RequestProtocol` and `Protocol` build on it; each changes one subject
of uvicorn's class, and knows nothing of those above it.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lifeguard.server import framing
from lifeguard.server.refusals import CLOSE, OVERLOADED, RETRY_AFTER_LINE, common_headers
from lifeguard.server.stand_ins import Flow
from lifeguard.server.write_deadline import WriteDeadline
from lifeguard.web import request_head

if TYPE_CHECKING:
    from lifeguard.web.gate import PreparedProblem
    from lifeguard.web.state import State

LINGER = 2.0
"""Seconds to read on after the last word: closing at once could destroy it on its way."""
MOST_CONNECTIONS = 4096
"""At once; fewer where the process may not open so many files. HAProxy's `maxconn` in front is 2000."""
_FILES_FOR_CLIENTS = 0.75  # of those that the process may open: the pools and the log need some


class Connection(HttpToolsProtocol):
    flow: Flow

    def __init__(self, *args: Any, **options: Any) -> None:  # uvicorn's business
        super().__init__(*args, **options)
        self._parts = cast("State", self.app_state) if "gate" in self.app_state else None
        """Without them, which another app does not have, nobody is refused."""
        self._asks_for_head = False
        """Whether the request that is read or answered is a HEAD."""
        self._deaf = False
        """Whether the last word is said: what still comes is not read."""
        self._read_timer: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._write_deadline = WriteDeadline(self.loop, transport)
        if len(self.connections) > most_connections():
            self._write(OVERLOADED, b"", CLOSE, RETRY_AFTER_LINE)
            self._deaf = True
            transport.close()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._write_deadline.stop()
        super().connection_lost(exc)

    def _write(self, problem: PreparedProblem, tag: bytes, *headers: bytes) -> None:
        """Answer the request `tag`, which gets an id if it has none."""
        told = problem.message(tag or request_head.new_id().encode(), *headers)
        if self._asks_for_head:
            told = told[: told.index(framing.HEAD_END) + len(framing.HEAD_END)]
        self.transport.write(STATUS_LINE[problem.status] + common_headers(self.server_state) + told)

    def _linger(self) -> None:
        """End it when the client has had time to read the last word."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._await(LINGER, self.transport.abort)

    # -- waiting to read ---------------------------------------------------------------------------

    def _await(self, seconds: float, otherwise: Callable[[], None]) -> None:
        self._read_timer = self.loop.call_later(seconds, otherwise)

    def _await_no_more(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    @override
    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # the answer to the last request, still
            if not self._write_deadline.is_set:
                self._write_deadline.start()
            self._keep_alive()
        else:
            super().timeout_keep_alive_handler()

    # -- waiting to write --------------------------------------------------------------------------

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline.start()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._write_deadline.stop()


def most_connections() -> int:
    """Give how many connections may be open at once, so that files are left for the rest of the process."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(MOST_CONNECTIONS, int(files * _FILES_FOR_CLIENTS))
