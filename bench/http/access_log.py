"""Request ids and an access log of JSON lines, for the peers: a plain ASGI middleware, which costs least.

The usual way, `BaseHTTPMiddleware` with a logging library, costs several times as much.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ID_HEADER = b"x-request-id"


def _log() -> logging.Logger:
    """A log that writes each message as a line of its own to standard output."""
    log = logging.getLogger("bench.http.access")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    return log


class AccessLog:
    """Keeps a request's id or gives it one, tells it to the client, and writes a line when it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = _log()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        request_id = dict(scope["headers"]).get(ID_HEADER) or uuid4().hex.encode()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (ID_HEADER, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            self._write(scope, request_id.decode(), status, perf_counter() - began)

    def _write(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = scope.get("route")
        line = {
            "timestamp": datetime.now(UTC).isoformat(),
            "level": "info",
            "event": "request",
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "route": getattr(route, "path", "none"),
            "status": status,
            "duration_ms": round(seconds * 1000, 2),
            "client": scope["client"][0] if scope["client"] else None,
        }
        self._log.info(json.dumps(line))
