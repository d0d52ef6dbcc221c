"""Where code stands: cheap to note at every borrow, made readable only when somebody asks."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Place = tuple[CodeType, int]
"""A code object and the index of the instruction it was at."""

_event_loop = {str(asyncio.base_events.__file__), str(asyncio.events.__file__), str(asyncio.runners.__file__)}
_see_through = [str(Path(__file__).parent), str(contextlib.__file__), str(Path(asyncio.__file__).parent)]
borrowers: set[CodeType] = set()
"""Code found to borrow for itself. Looking here first spares the hot path a call."""


def look_through(folder: str) -> None:
    """Never name code of this folder as the borrower: it borrows on behalf of its callers."""
    _see_through.append(folder)
    borrowers.clear()


def place_of(frame: FrameType | None) -> Place | None:
    """The innermost code, from `frame` on outwards, that borrows for itself. None when there is none: a
    task that is nothing but a query has no caller, only an event loop that runs it."""
    while frame is not None:
        code = frame.f_code
        if code.co_filename in _event_loop:
            return None
        if not code.co_filename.startswith(tuple(_see_through)):
            borrowers.add(code)
            return code, frame.f_lasti
        frame = frame.f_back
    return None


def describe(place: Place | None) -> str | None:
    """`file:line in function`."""
    if place is None:
        return None
    code, instruction = place
    line = next((line for start, end, line in code.co_lines() if start <= instruction < end), None)
    return f"{code.co_filename}:{line} in {code.co_qualname}"


def where_it_stands(task: asyncio.Task[object] | None) -> tuple[str, ...]:
    """The frames in which a task waits now, innermost first; () when it has ended."""
    if task is None or task.done():
        return ()
    found: list[str] = []
    awaited: Any = task.get_coro()  # coroutines, generators and plain iterators have no common type
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            found.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return tuple(reversed(found))
