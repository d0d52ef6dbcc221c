"""In development: what blocks the event loop, and where. While it is blocked, every request waits."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import FrameType

import structlog

from lifeguard.pool.callsite import borrowers, call_site_of, describe

LONGEST_TURN = 0.1
"""Seconds that a piece of code may keep the loop."""
_PAUSE = 0.02  # seconds between two questions
_GRACE = 0.01  # seconds that a loop that was not scheduled has to answer before it is looked at
_FRAMES = 12  # of the stack, in an event
_SEEN_AT_MOST = 1000  # places
_STOPPED_ON_PURPOSE = frozenset(("pdb", "bdb", "pydevd", "_pydevd_bundle"))
_REMEDY = (
    "await what has an async version, and send the rest to a thread: `await asyncio.to_thread(...)`, or an"
    " endpoint that is `def` without `async`"
)
_IMPORTS = "<frozen importlib"

_log = structlog.get_logger("lifeguard.event_loop")


class StallWatch:
    """Asks the loop for a sign of life from a thread, fifty times a second, and looks at its stack when none
    comes. Each place is told once, when the loop goes on: `event_loop_blocked`.

    Not told: imports, debuggers, waits for a processor, and code that the owner's neither is nor called.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: set[str] = set()

    def start(self) -> None:
        """Watch the loop that runs, from the thread that it runs in."""
        loop, watched = asyncio.get_running_loop(), threading.current_thread()
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._watch, args=(loop, watched), name="event loop watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, watched: threading.Thread) -> None:
        assert watched.ident is not None
        while not self._stop.wait(_PAUSE):
            answered = threading.Event()
            asked_at, starved = monotonic(), _starved(watched)
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:  # the loop has been closed
                return
            if answered.wait(LONGEST_TURN):
                continue
            while not answered.wait(_GRACE) and not self._stop.is_set():
                if monotonic() - asked_at - (_starved(watched) - starved) > LONGEST_TURN:
                    self._look(loop, watched.ident, answered, asked_at)
                    break

    def _look(
        self, loop: asyncio.AbstractEventLoop, thread: int, answered: threading.Event, since: float
    ) -> None:
        frame = sys._current_frames().get(thread)  # noqa: SLF001 - there is no other way
        # A loop that does not run, as between two tests on it, is not blocked by what its thread does.
        if frame is not None and loop.is_running():
            self._tell(frame, answered, since)
        self._until_it_goes_on(answered)

    def _tell(self, frame: FrameType, answered: threading.Event, since: float) -> None:
        site = call_site_of(frame)
        place = describe(site)
        if site is None or place is None or place in self._seen:
            return
        if id(site[0]) not in borrowers or not _is_a_mistake(frame):
            return
        if len(self._seen) < _SEEN_AT_MOST:
            self._seen.add(place)
        stack = _stack_of(frame)
        del frame  # it would keep the variables of a request
        self._until_it_goes_on(answered)
        _log.warning(
            "event_loop_blocked",
            seconds=round(monotonic() - since, 3),
            at=place,
            stack="\n".join(stack),  # a text, as structlog has it
            remedy=_REMEDY,
        )

    def _until_it_goes_on(self, answered: threading.Event) -> None:
        while not answered.wait(LONGEST_TURN) and not self._stop.is_set():
            pass


def _is_a_mistake(frame: FrameType) -> bool:
    """Whether it is neither an import that keeps the loop nor a person at a debugger."""
    for at in _outwards(frame):
        module = str(at.f_globals.get("__name__", "")).partition(".")[0]
        if module in _STOPPED_ON_PURPOSE or at.f_code.co_filename.startswith(_IMPORTS):
            return False
    return True


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _stack_of(frame: FrameType) -> list[str]:
    """Innermost first, as in the pool's reports."""
    lines = traceback.extract_stack(frame, limit=_FRAMES)
    return [f"{line.filename}:{line.lineno} in {line.name}" for line in reversed(lines)]


def _starved(thread: threading.Thread) -> float:
    """Seconds that a thread has waited for a processor since it began (Linux; elsewhere 0)."""
    try:
        times = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text(encoding="ascii").split()
        return int(times[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
