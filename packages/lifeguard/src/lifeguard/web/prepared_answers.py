"""Problems that are rendered beforehand, for refusals by the thousand and before there is a request; and the
headers of every answer."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fastapi_problem.error import Problem
from starlette.types import Scope

from lifeguard.web import problems

ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
"""Headers of every answer."""
UNLESS_SAID = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Headers of every answer that has none of its own by that name.

Strict-Transport-Security is not among them: it is set where TLS ends, at the proxy.
"""


def answer_types(scope: Scope) -> tuple[str, str]:
    """Give the types of the two messages that answer this request, or this WebSocket's handshake."""
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    return f"{kind}.start", f"{kind}.body"


def complete(headers: Iterable[tuple[bytes, bytes]], tag: str) -> list[tuple[bytes, bytes]]:
    """Add what every answer says to what this one says, the answer to the request `tag`."""
    completed = [*headers, *ALWAYS]
    said = {name for name, _ in completed}
    completed += [header for header in UNLESS_SAID if header[0] not in said]
    completed.append((b"x-request-id", tag.encode("ascii")))
    return completed


class PreparedProblem:
    """A problem, rendered but for what differs from request to request."""

    def __init__(self, problem: Problem) -> None:
        content = problem.marshal(uri=problems.TYPE_URI)
        rendered = json.dumps({**content, "request_id": ""}, separators=(",", ":"), ensure_ascii=False)
        self.name = str(problem.type)
        self.status = problem.status
        self._body = rendered.removesuffix('"}').encode()
        described = ((b"content-type", problems.MEDIA_TYPE.encode()), *ALWAYS, *UNLESS_SAID)
        self._head = b"".join(b"%b: %b\r\n" % header for header in described)

    def body(self, tag: bytes) -> bytes:
        """The body for the request `tag`: letters, digits, dots, dashes, nothing that JSON would escape."""
        return b'%b%b"}' % (self._body, tag)

    def message(self, tag: bytes, *more: bytes) -> bytes:
        """The answer as HTTP/1.1 below its status line; `more` are whole header lines."""
        return b'%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b%b"}' % (
            self._head,
            b"".join(more),
            tag,
            len(self._body) + len(tag) + 2,
            self._body,
            tag,
        )
