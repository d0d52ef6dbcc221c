"""One at a time, and others in between: for work that is short of itself, and long when all do it at once.

A large body costs some 10 ms of the event loop. When 60 clients send one at the same moment, everybody else
would wait for all of them; with turns, for one.

A large body that is refused has cost that for nothing: its JSON was read, and each of its faults became
words. So the loop has a rest from it. After one that took `d` seconds, other large bodies wait `REST * d`;
those of a connection whose last one was refused, too, stand behind all others, for `REST_OF_REFUSED * d`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

REST = 4
"""So refused bodies take a fifth of the event loop at most, however they come."""
REST_OF_REFUSED = 50
"""And a fiftieth, where connections send one after the other."""
LONGEST_REST = 2.0
"""Seconds: what stopped the process for longer was not the body."""

DEAR = 0.001
"""Seconds of the event loop, below which nobody rests."""

RECORD = "lifeguard.record"
"""In a request's scope: the `Record` of its connection, where the server's protocol keeps one."""

_REFUSALS = frozenset((400, 413, 422))
_Waiting = deque[asyncio.Future[None]]


class Record:
    """What became of the large bodies that a connection has sent."""

    __slots__ = ("_is_large", "was_refused")

    def __init__(self) -> None:
        self._is_large = False
        self.was_refused = False
        """Whether the last of them was."""

    def has_read(self) -> None:
        """Note that the body of the request under way is large."""
        self._is_large = True

    def is_answered(self, status: int) -> None:
        """Note the answer to the request under way."""
        if self._is_large:
            self._is_large, self.was_refused = False, status in _REFUSALS


class Turns:
    """Lets one go on, and the next only when all has run that the event loop had to run by then."""

    def __init__(self) -> None:
        self._waiting: _Waiting = deque()
        self._refused: _Waiting = deque()
        self._taken = False
        """Whether somebody has the turn, or it will be given."""
        self._timer: asyncio.TimerHandle | None = None
        """Runs where all that wait have to rest."""
        self._rest = 0.0
        self._rest_of_refused = 0.0
        """When each may have its next turn, in the event loop's time."""

    async def mine(self, *, was_refused: bool = False) -> None:
        """Return when it is the caller's turn, which lasts until it next awaits something.

        `was_refused`: whether that is what became of the last one from there.
        """
        loop = asyncio.get_running_loop()
        if self._taken or loop.time() < (self._rest_of_refused if was_refused else self._rest):
            await self._wait(loop, self._refused if was_refused else self._waiting)
        self._taken = True
        loop.call_soon(self._pass_on, loop)

    def charge(self, seconds: float) -> None:
        """Note what was spent on a body that is refused."""
        if seconds < DEAR:
            return
        now = asyncio.get_running_loop().time()
        self._rest = max(self._rest, now + min(LONGEST_REST, REST * seconds))
        self._rest_of_refused = max(self._rest_of_refused, now + min(LONGEST_REST, REST_OF_REFUSED * seconds))

    async def _wait(self, loop: asyncio.AbstractEventLoop, waiting: _Waiting) -> None:
        turn = loop.create_future()
        waiting.append(turn)
        if self._timer is not None:  # for somebody who may have to rest for longer
            self._timer.cancel()
        if self._timer is not None or not self._taken:
            self._taken, self._timer = True, None
            loop.call_soon(self._pass_on, loop)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given, and will not be used
                loop.call_soon(self._pass_on, loop)
            raise

    def _pass_on(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now, soonest = loop.time(), None
        for waiting, rest in ((self._waiting, self._rest), (self._refused, self._rest_of_refused)):
            while waiting and waiting[0].done():
                waiting.popleft()
            if waiting and now >= rest:
                waiting.popleft().set_result(None)
                return
            if waiting and (soonest is None or rest < soonest):
                soonest = rest
        self._taken = soonest is not None
        if soonest is not None:
            self._timer = loop.call_at(soonest, self._pass_on, loop)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns() -> Turns:
    """Give those of the running event loop."""
    loop = asyncio.get_running_loop()
    return _of_loops.get(loop) or _of_loops.setdefault(loop, Turns())
