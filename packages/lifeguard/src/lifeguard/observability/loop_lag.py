"""How late the event loop runs what is due: the first number to look at when everything is slow."""

from __future__ import annotations

import asyncio
from collections import deque

_INTERVAL = 0.25
_REMEMBERED = 60  # 15 seconds: a usual scrape interval, so that no scrape misses a stall


class LoopLag:
    """Asks the loop for a wake-up every 0.25 s and notes how late it comes. Costs nothing to read."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=_REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """The worst of the last 15 seconds."""
        return max(self._late, default=0.0)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + _INTERVAL, self._wake, loop, loop.time() + _INTERVAL)

    def _wake(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._late.append(max(0.0, now - due))
        self._timer = loop.call_at(now + _INTERVAL, self._wake, loop, now + _INTERVAL)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
