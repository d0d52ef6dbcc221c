"""The headers of every answer: of ordinary ones, and of refusals that are rendered beforehand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from starlette.types import Scope

ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
"""Headers of every answer."""
UNLESS_SAID = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""Headers of every answer that has none of its own by that name.

Strict-Transport-Security is not among them: it is set where TLS ends, at the proxy.
"""

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]++")
_ABOUT_THE_CONNECTION = frozenset((b"connection", b"transfer-encoding", b"content-length", b"x-request-id"))
_MOST_KEPT = 256
_rests: dict[tuple[bytes, ...], bytes | None] = {}
"""What `rendered` adds, by the names of what an answer says; None where that is not for it."""

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def answer_types(scope: Scope) -> tuple[str, str]:
    """Give the types of the two messages that answer this request, or this WebSocket's handshake."""
    kind = "http.response" if scope["type"] == "http" else "websocket.http.response"
    return f"{kind}.start", f"{kind}.body"


def complete(headers: Iterable[tuple[bytes, bytes]], tag: str) -> list[tuple[bytes, bytes]]:
    """Add what every answer says to what this one says, the answer to the request `tag`.

    Raises ValueError for a control character in a value, the end of a line for instance. The server would as
    well, but when it is too late to say anything else: the client would get no answer at all.
    """
    completed = [*headers, *ALWAYS]
    if _CONTROL.search(b" ".join([value for _, value in completed])):
        raise ValueError("a header of the answer has a control character")
    said = {name for name, _ in completed}
    completed += [header for header in UNLESS_SAID if header[0] not in said]
    completed.append((b"x-request-id", tag.encode("ascii")))
    return completed


def rendered(headers: Sequence[tuple[bytes, bytes]], tag: str, size: int) -> bytes | None:
    """Give `complete(headers, tag)` as lines of a head, for a body of `size` bytes.

    None where somebody has to look at them: they are about the connection, or are none that can be sent.
    """
    names = tuple([name for name, _ in headers])
    rest = _rests[names] if names in _rests else _rest_of(names)
    if rest is None or _CONTROL.search(b" ".join([value for _, value in headers])):
        return None
    if headers[names.index(b"content-length")][1] != b"%d" % size:
        return None
    said = b"".join([b"%b: %b\r\n" % header for header in headers])
    return b"%b%bx-request-id: %b\r\n" % (said, rest, tag.encode("ascii"))


def _rest_of(names: tuple[bytes, ...]) -> bytes | None:
    special = [name for name in names if name in _ABOUT_THE_CONNECTION]
    rest = None
    if special == [b"content-length"] and all(map(_NAME.fullmatch, names)):
        added = (*ALWAYS, *(header for header in UNLESS_SAID if header[0] not in names))
        rest = b"".join(b"%b: %b\r\n" % header for header in added)
    if len(_rests) >= _MOST_KEPT:
        _rests.clear()
    _rests[names] = rest
    return rest
