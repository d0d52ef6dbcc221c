"""`X-Consistency-Token`: a write's answer carries one, and a read that sends it back sees that write.

Only where there are replicas: without them every read sees every write, no answer has the header, and what
clients send of it is not looked at.

A browser's token may be kept in a cookie (`CONSISTENCY_COOKIE`), which JavaScript neither sees nor has to
send. A header wins over it. A header that is no token of this service's is a 400,
`invalid-consistency-token`; such a cookie is ignored, for its client cannot mend it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from lifeguard.database import CallScope, Database, InvalidToken, Position
from lifeguard.settings import Settings
from lifeguard.web.routes import Served

HEADER = b"x-consistency-token"
SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
"""Requests that write nothing, and whose answers have no token (RFC 9110, section 9.2.1)."""

_NAME = "X-Consistency-Token"
_OF_A_READ = (
    "What the answer to a write has said: the answer to this has that write in it. Only where reads may come"
    " from a replica."
)
_OF_A_WRITE = "For later reads that have to see this write. Only where reads may come from a replica."
_SUCCESS = "2"
_CONVERTOR = re.compile(r":[a-z]+(?=})")


class ConsistencyTokens:
    """Reads the tokens of requests, and writes those of answers."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._consistency = database.consistency
        name = settings.consistency_cookie
        self._cookie = name.encode("ascii") if name else None
        self._attributes = f"; Max-Age={self._consistency.ttl:.0f}; Path=/; HttpOnly; SameSite=Lax"
        if settings.in_production:
            self._attributes += "; Secure"

    def note(self, headers: Iterable[tuple[bytes, bytes]], call: CallScope) -> InvalidToken | None:
        """Note in the call's scope what its reads have to see, or give the fault of the header."""
        if not self._consistency.is_needed:
            return None
        for name, value in headers:
            if name == HEADER:
                try:
                    call.after = self._consistency.position(value.decode("latin-1"))
                except InvalidToken as error:
                    return error
                return None
            if name == b"cookie" and self._cookie is not None:
                call.after = call.after or self._kept(value)
        return None

    def _kept(self, cookies: bytes) -> Position | None:
        for cookie in cookies.split(b";"):
            name, _, value = cookie.strip().partition(b"=")
            if name == self._cookie:
                try:
                    return self._consistency.position(value.decode("latin-1"))
                except InvalidToken:
                    return None
        return None

    def headers(self, call: CallScope) -> list[tuple[bytes, bytes]]:
        """Those that an answer has besides: none if the call has written nothing."""
        token = self._consistency.token(call)
        if token is None:
            return []
        headers = [(HEADER, token.encode("ascii"))]
        if self._cookie is not None:
            headers.append((b"set-cookie", b"%b=%b" % (self._cookie, (token + self._attributes).encode())))
        return headers


def document(paths: dict[str, Any], served: Iterable[Served], needing: frozenset[object]) -> None:
    """Name the header in the OpenAPI paths of the routes that depend on one of `needing`."""
    for route in served:
        if needing.isdisjoint(route.asks):
            continue
        for method, operation in paths.get(_CONVERTOR.sub("", route.template), {}).items():
            if route.methods is not None and method.upper() not in route.methods:
                continue  # another route's, of the same path
            if method.upper() in SAFE_METHODS:
                operation.setdefault("parameters", []).append(
                    {
                        "name": _NAME,
                        "in": "header",
                        "required": False,
                        "schema": {"type": "string"},
                        "description": _OF_A_READ,
                    }
                )
                continue
            for status, response in operation["responses"].items():
                if status.startswith(_SUCCESS):
                    response.setdefault("headers", {})[_NAME] = {
                        "description": _OF_A_WRITE,
                        "schema": {"type": "string"},
                    }
