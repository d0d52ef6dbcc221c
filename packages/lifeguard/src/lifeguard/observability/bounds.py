"""How long a log line may become. Clients decide about much of it: errors repeat what they sent, and nest."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from itertools import islice
from typing import TextIO

from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from lifeguard.observability.scrub import Scrubber

LONGEST_VALUE = 4096
"""Characters of a value of a log line."""
LONGEST_TRACEBACK = 16_384
"""Characters of a traceback; of a longer one beginning and end are shown, where it says what and where."""
MOST_FRAMES = 100
"""Frames of each error in a traceback, the innermost."""
MOST_CAUSES = 20
"""Errors of a chain that are shown with their frames."""

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_WITHOUT_LINES = {code: shown for code, shown in _CONTROLS.items() if chr(code) not in "\n\t"}


def bounded(scrub: Scrubber) -> Processor:
    """Make the processor that cuts every value, without secrets: half of one would not be found later."""

    def bound(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if isinstance(value, str):
                if len(value) > LONGEST_VALUE:
                    cut = _ends if name in {"exception", "stack"} else scrub.head
                    event[name] = cut(value, LONGEST_VALUE)
            elif value is not None and not isinstance(value, int | float | tuple):
                text = json.dumps(value, default=str)
                if len(text) > LONGEST_VALUE:
                    event[name] = scrub.head(text, LONGEST_VALUE)
        return event

    def _ends(text: str, _: int) -> str:
        if len(text) <= LONGEST_TRACEBACK:
            return text
        head = LONGEST_TRACEBACK // 4
        return f"{scrub.head(text, head)}\n{scrub.tail(text, LONGEST_TRACEBACK - head)}"

    return bound


def printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Show control characters, with which a client could write lines of its own to a terminal."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = value.translate(_WITHOUT_LINES if name in {"exception", "stack"} else _CONTROLS)
    return event


def told(exc_info: ExcInfo) -> str:
    """Format the traceback, with a bounded number of frames and causes."""
    error = exc_info[1]
    chain = list(islice(_chain(error), MOST_CAUSES + 1))
    if len(chain) > MOST_CAUSES:
        lines = [f"{type(one).__name__}: {one}" for one in chain]
        return "\n".join([*lines, "and more errors that it came from"])
    return "".join(
        traceback.TracebackException(*exc_info, limit=-MOST_FRAMES, compact=True).format()
    ).removesuffix("\n")


def tell(stream: TextIO, exc_info: ExcInfo) -> None:
    """Write the traceback to a console, below its line, without control characters except line ends."""
    stream.write("\n" + told(exc_info)[:LONGEST_TRACEBACK].translate(_WITHOUT_LINES))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
