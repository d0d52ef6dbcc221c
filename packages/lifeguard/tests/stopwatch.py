"""Bounds on time that hold on a busy machine, too."""

import asyncio
from contextlib import suppress
from time import monotonic
from types import TracebackType

_TICK = 0.005
_LATE = 0.02
"""Seconds that a timer may be late by itself."""


class Stopwatch:
    """Counts the seconds of a block in which this process ran.

    What a busy machine takes away, it takes from the timers of the event loop as well: those seconds are left
    out. A block that waits too long by itself leaves the timers alone, so its seconds all count.
    """

    def __init__(self) -> None:
        self._started = self._due = 0.0
        self._lost = 0.0
        self.seconds = 0.0
        """Of the block, once it has ended."""

    async def __aenter__(self) -> "Stopwatch":
        self._started = monotonic()
        self._due = self._started + _TICK
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._look()
        self.seconds = monotonic() - self._started - self._lost
        self._ticking.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticking

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._look()

    def _look(self) -> None:
        now = monotonic()
        late = now - self._due
        if late > _LATE:
            self._lost += late
        self._due = now + _TICK
