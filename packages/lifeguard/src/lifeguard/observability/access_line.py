"""The log line of a request, put together from parts that are rendered already.

It is the line that structlog would write, byte for byte. Every request has one, with the same fields, so most
of it need not be rendered anew. What is out of the ordinary (an error, a bound context variable, processors
that somebody has added, columns on a terminal) is left to structlog.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii as quoted
from time import gmtime, strftime, time_ns

import structlog
from structlog.typing import Processor

from lifeguard.observability.bounds import LONGEST_VALUE

EVENT = "request"
_SECOND, _MICROSECOND = 1_000_000_000, 1_000
_MOST_KEPT = 4096
"""Pairs of route and status; a service has some hundred."""

_bound_by_anybody = structlog.contextvars._CONTEXT_VARS  # noqa: SLF001
"""The variables that have ever been bound, in any context."""


class AccessLine:
    """Renders the lines of one logger as `processors` would, and hands them to `write`."""

    def __init__(
        self,
        name: str,
        processors: Sequence[Processor],
        *,
        service: str,
        scrub: Callable[[str], str],
        write: Callable[[str], None],
    ) -> None:
        self._processors = processors
        self._length, self._last = len(processors), processors[-1]
        self._tail = f', "service": {quoted(service)}}}'
        self._name = quoted(name)
        self._scrub = scrub
        self._write = write
        self._middles: dict[tuple[str, int], str] = {}
        self._second, self._date = -1, ""

    def write(
        self,
        *,
        level: str,
        method: str,
        path: str,
        route: str,
        status: int,
        duration_ms: float,
        client: str | None,
        tag: str,
        problem: str | None = None,
    ) -> bool:
        """Write the line. False: it is structlog's to write, and nothing is written."""
        if _bound_by_anybody and structlog.contextvars.get_contextvars():
            return False
        # structlog's `capture_logs` changes the list in place; so may others.
        if len(self._processors) != self._length or self._processors[-1] is not self._last:
            return False
        if len(path) > LONGEST_VALUE or len(problem or "") > LONGEST_VALUE:
            return False
        told = "" if problem is None else f', "problem": {quoted(problem)}'
        self._write(
            self._scrub(
                f'{{"method": {quoted(method)}, "path": {quoted(path)}'
                f"{self._middles.get((route, status)) or self._middle(route, status)}{duration_ms!r}"
                f', "client": {"null" if client is None else quoted(client)}{told}'
                f', "event": "{EVENT}", "request_id": {quoted(tag)}, "logger": {self._name}'
                f', "level": "{level}", "timestamp": "{self.timestamp(time_ns())}"{self._tail}'
            )
        )
        return True

    def _middle(self, route: str, status: int) -> str:
        if len(self._middles) >= _MOST_KEPT:
            self._middles.clear()
        made = f', "route": {quoted(route)}, "status": {int.__repr__(status)}, "duration_ms": '
        self._middles[route, status] = made
        return made

    def timestamp(self, now: int) -> str:
        """Nanoseconds of the epoch as structlog's TimeStamper writes them, to the microsecond."""
        second, rest = divmod(now, _SECOND)
        if second != self._second:
            self._second, self._date = second, strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        microseconds = rest // _MICROSECOND
        return f"{self._date}.{microseconds:06d}Z" if microseconds else f"{self._date}Z"
