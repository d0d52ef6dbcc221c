"""HEAD wherever GET is: the same answer without its body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifeguard.web.routes import Routing


class _Enough(Exception):
    """Ends an answer whose body would go on: a HEAD has none."""


class HeadAsGet:
    """Has a HEAD that no route takes served as the GET of its path. Around the gate and stale answers, which
    see the GET."""

    def __init__(self, app: ASGIApp, *, routing: Routing) -> None:
        self.app = app
        self._routing = routing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD" and not self._routing.find(scope):
            as_get = {**scope, "method": "GET"}
            if self._routing.choice(as_get).served:
                await self._serve(scope, as_get, receive, send)
                return
        await self.app(scope, receive, send)

    async def _serve(self, scope: Scope, as_get: Scope, receive: Receive, send: Send) -> None:
        def tell() -> None:
            """Copy what was noted in the GET's scope to the HEAD's, for the log line and the metrics."""
            scope.update({name: value for name, value in as_get.items() if name != "method"})

        async def send_head(message: Message) -> None:
            tell()
            if message["type"] == "http.response.body":
                if message.get("more_body", False):
                    await send({"type": "http.response.body", "body": b""})
                    raise _Enough
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(as_get, receive, send_head)
        except _Enough:
            pass
        finally:
            tell()
