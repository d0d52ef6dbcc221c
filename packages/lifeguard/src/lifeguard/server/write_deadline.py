"""A bound on how slowly a client may take what it is sent."""

from __future__ import annotations

import asyncio

WRITE_PATIENCE = 30.0
"""Seconds in which a client must take something of what it is sent."""


class WriteDeadline:
    """Of one connection: ends it when its client takes nothing of what is written for `WRITE_PATIENCE`."""

    __slots__ = ("_loop", "_timer", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._loop = loop
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_set(self) -> bool:
        return self._timer is not None

    def start(self) -> None:
        self.stop()
        left = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(WRITE_PATIENCE, self._look, left)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, then: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left < then:
            self.start()
        elif left:
            self._transport.abort()
