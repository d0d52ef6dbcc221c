"""Output beside the log, without secrets: lines of the command line, and standard error."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from lifeguard.observability.scrub import Scrubber
from lifeguard.settings import Settings


class ScrubbedStream:
    """A text stream that takes the secrets out of what is written to it, one write at a time."""

    def __init__(self, stream: TextIO, scrub: Scrubber) -> None:
        self.stream = stream
        self._scrub = scrub

    def write(self, text: str) -> int:
        self.stream.write(self._scrub(text))
        return len(text)

    def writelines(self, lines: Any) -> None:  # Any: as TextIO has it
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:  # Any: everything else is the stream's
        return getattr(self.stream, name)


class _Output:
    """One for the process, as there is one standard error."""

    scrub = Scrubber()


def guard(settings: Settings) -> None:
    """Keep the secrets of `settings` out of `shown` texts and of standard error from now on.

    Python writes to it what nobody has caught, in any thread, what could not be raised, warnings, and what
    went wrong with the log.
    """
    _Output.scrub = Scrubber(settings.secret_values())
    stream = sys.stderr.stream if isinstance(sys.stderr, ScrubbedStream) else sys.stderr
    sys.stderr = ScrubbedStream(stream, _Output.scrub)


def shown(text: object) -> str:
    """`text` for people at a terminal, without secrets."""
    return _Output.scrub(str(text))
