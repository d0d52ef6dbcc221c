"""What the protocol says by itself, ready to be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from fastapi_problem.error import StatusProblem

from lifeguard.web import problems
from lifeguard.web.buffered import RETRY_AFTER
from lifeguard.web.gate import PreparedProblem

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from lifeguard.web.state import State

OVERLOADED = PreparedProblem(problems.Overloaded())
RETRY_AFTER_LINE = b"retry-after: %d\r\n" % RETRY_AFTER
TIMEOUT = PreparedProblem(problems.RequestTimeout())
FAULTS: dict[type[StatusProblem], PreparedProblem] = {
    kind: PreparedProblem(kind())
    for kind in (
        *(problems.BadRequest, problems.UriTooLong, problems.HeadersTooLarge, problems.ExpectationFailed),
        *(problems.MethodNotImplemented, problems.VersionNotSupported),
    )
}
CLOSE = b"connection: close\r\n"

_log = structlog.get_logger("lifeguard.request")

_ABOUT_THE_CONNECTION = frozenset((b"connection", b"content-length", b"transfer-encoding"))
_rendered: tuple[object, bytes | None] = (None, None)


def rendered(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """uvicorn's headers of every answer: a list that it makes anew each second, for the date. None if one of
    them decides what becomes of the connection."""
    global _rendered  # noqa: PLW0603 - one list for all connections
    known, lines = _rendered
    if headers is not known:
        is_plain = _ABOUT_THE_CONNECTION.isdisjoint(name.lower() for name, _ in headers)
        lines = b"".join(b"%b: %b\r\n" % header for header in headers) if is_plain else None
        _rendered = (headers, lines)
    return lines


def common_headers(state: ServerState) -> bytes:
    return rendered(state.default_headers) or b""


def note(parts: State | None, problem: PreparedProblem, client: str | None) -> None:
    """Count and log what is refused before anybody else has seen it."""
    if parts:
        parts["metrics"].count("unknown", "none", problem.status)
    _log.info(
        "request",
        method="unknown",
        route="none",
        status=problem.status,
        problem=problem.name,
        client=client,
    )
