"""Which request is begun next when more have come than the event loop can begin.

One event loop serves all connections. If every request were begun as it comes, 64 connections that ask
without a pause would make each turn of the loop 64 requests long, and a request needs about five turns. So a
few are begun in each turn, and the rest stand in line as bytes. A request that finds nobody in line is begun
at once: the line forms only where the loop has more to do than it can.

Requests that came while another was under way on their connection (HTTP pipelining) stand in a line of their
own. No browser and no proxy sends them, so they are how one connection may ask for the share of hundreds.
Of those, one is begun in each turn, in the order in which their connections came to stand there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from weakref import WeakKeyDictionary

MOST_A_TURN = 2
"""Requests given to the app, which cost most: half a millisecond each, over all of their turns."""
LONGEST = 0.001
"""Seconds of a turn in which requests are begun: of those refused on arrival it takes thirty."""


class Line:
    """Of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alone: deque[Callable[[], bool]] = deque()
        self._behind: deque[Callable[[], bool]] = deque()
        self._turn: asyncio.Handle | None = None
        """The next one. None: nobody stands in line, and nothing was begun in this turn."""
        self._since = 0.0
        self._begun = 0

    def admits(self) -> bool:
        """Whether a request that came alone may be begun now, without standing in line."""
        if self._turn is None:
            self._open()
            return True
        return not self._alone and self._has_room

    def begun(self) -> None:
        """Count a request that was given to the app, in a task that has been made."""
        self._begun += 1
        if self._alone or self._behind:
            self._put_off()

    def stand(self, have_turn: Callable[[], bool], *, behind: bool) -> None:
        """Have `have_turn` called when it is its turn; it says whether it has used that."""
        is_first = not self._alone and not self._behind
        (self._behind if behind else self._alone).append(have_turn)
        if is_first:
            self._put_off()

    @property
    def _has_room(self) -> bool:
        return self._begun < MOST_A_TURN and perf_counter() - self._since < LONGEST

    def _open(self) -> None:
        self._put_off()
        self._since = perf_counter()
        self._begun = 0

    def _put_off(self) -> None:
        """Begin the next turn behind this one's tasks: they join the pool's queue, which the gate asks."""
        if self._turn is not None:
            self._turn.cancel()
        self._turn = self._loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn = None
        if not self._alone and not self._behind:
            return
        self._open()
        while self._alone and self._has_room:
            self._alone.popleft()()
        while self._behind and not self._behind.popleft()():
            pass
        self._put_off()


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Line] = WeakKeyDictionary()


def line_of(loop: asyncio.AbstractEventLoop) -> Line:
    """Give the one of this event loop."""
    return _of_loops.get(loop) or _of_loops.setdefault(loop, Line(loop))
