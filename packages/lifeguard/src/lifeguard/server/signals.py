"""The signals that ask the process to stop: held back while load balancers notice, then passed on."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from contextvars import Context
from types import FrameType
from typing import Self

from lifeguard.web.drain import Drain

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO = 2.0
"""Seconds in which a second signal is the first one again.

A terminal or systemd signals the whole group, and a supervisor (gunicorn, uvicorn, npm, make) passes the
signal on to the processes of its group, who have it already.
"""


class StopSignals:
    """Begins the drain at the first SIGTERM or SIGINT, and tells the server `delay` seconds later.

    The server's handlers are in place before the lifespan starts. They are put off because uvicorn
    stops listening and closes idle connections as soon as it knows, while clients still come. A second
    signal ends the process at once, with exit code 128 + its number, unless it comes within `ECHO`
    seconds: then it is the first one, which came in two ways.
    """

    def __init__(self, drain: Drain, delay: float) -> None:
        self._drain = drain
        self._delay = delay
        self._previous: dict[int, object] = {}
        self._first_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others get no signals
            self._loop = asyncio.get_running_loop()
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()
        if self._first_at is not None:
            return  # the process ends; an echo must still not reach the server
        for number, before in self._previous.items():
            # A handler that was installed later stays.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)  # type: ignore[arg-type]  # what signal() gave, it takes

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            # In a context of its own, not in that of the request which the signal interrupts.
            self._loop.call_soon_threadsafe(self._begin, number, context=Context())
            if not self._delay:
                self._pass_on(number)
        elif now - self._first_at > ECHO:
            self._end_at_once(number, frame)

    def _begin(self, number: int) -> None:
        self._drain.begin(self._delay)
        if self._delay:
            self._timer = self._loop.call_later(self._delay, self._pass_on, number)

    def _pass_on(self, number: int) -> None:
        """Call the handler that was there before, as if the signal were Ctrl-C.

        uvicorn treats the two alike until its end, where it raises the signal again: after SIGTERM
        the process would be killed by it, after SIGINT it exits with 0.
        """
        before = self._previous[number]
        if callable(before):
            before(signal.SIGINT, None)
        elif before is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _end_at_once(self, number: int, frame: FrameType | None) -> None:
        """End without a log line: the signal may have come in the middle of writing one."""
        before = self._previous[number]
        try:
            if callable(before):  # it may have something to stop; the first one can have been held back
                before(number, frame)
                before(number, frame)
        finally:
            os._exit(128 + number)  # not by the signal: process 1 of a container would survive it
