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

_rendered_headers: tuple[object, bytes] = (None, b"")


def common_headers(state: ServerState) -> bytes:
    """uvicorn's headers of every answer: a list that it makes anew each second, for the date."""
    global _rendered_headers  # noqa: PLW0603 - one list for all connections
    headers, rendered = _rendered_headers
    if headers is not state.default_headers:
        rendered = b"".join(b"%b: %b\r\n" % header for header in state.default_headers)
        _rendered_headers = (state.default_headers, rendered)
    return rendered


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
