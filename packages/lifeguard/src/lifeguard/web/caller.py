"""For whom a request borrows connections, and which route it belongs to, as logs and reports name them."""

from __future__ import annotations

import inspect
from types import CodeType

from starlette.types import Scope

from lifeguard.web.routes import WEBSOCKET, choice_of

_TOO_LATE = (
    "what runs later, as a StreamingResponse's body, a background task or a task of its own, takes"
    " DatabaseDep and borrows with `async with database.read()`, connection() or transaction()"
)


class RequestCaller:
    """For whom a request borrows connections: its route, once that is known, and its endpoint."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @property
    def route(self) -> str:
        return f"{self._scope.get('method', WEBSOCKET)} {route_template(self._scope)}"

    @property
    def remedy(self) -> str:
        return f"that of {self.route} ended when its endpoint returned: {_TOO_LATE}"

    @property
    def endpoint(self) -> CodeType | None:
        endpoint = inspect.unwrap(self._scope["endpoint"]) if "endpoint" in self._scope else None
        return getattr(endpoint, "__code__", None)


def route_template(scope: Scope) -> str:
    """Give the path of the route that served, or would have, placeholders unfilled; `none` without one."""
    # FastAPI's own note holds the whole path, the route only that below `include_router(prefix=...)`.
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    # For a WebSocket, FastAPI keeps that in Starlette's route below its note.
    path: str = getattr(route, "path", "") or getattr(getattr(route, "starlette_route", None), "path", "")
    if path:
        return path
    choice = choice_of(scope)  # of a request that was refused before its route was asked
    return choice.served.template if choice and choice.served else "none"
