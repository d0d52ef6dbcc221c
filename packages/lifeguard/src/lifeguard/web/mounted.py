"""Problems (RFC 9457) in mounted applications, which would answer a plain 500 instead.

Those of FastAPI also answer invalid requests in their own form, and repeat the body for each missing field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import structlog
from fastapi import Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifeguard.web import problems

_INTERNAL = 500
_DEFAULTS = (
    (HTTPException, http_exception_handler),
    (RequestValidationError, request_validation_exception_handler),
)

_log = structlog.get_logger("lifeguard.request")


class AnswerErrors:
    """Inside of what Starlette puts around an app: what the app has no handler for becomes a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, note_start)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            response = await problems.answer(Request(scope), error)
            if response.status_code == _INTERNAL:
                _log.error("unforeseen_error", exc_info=error)
            await response(scope, receive, send)


def answer_errors_of_mounted(routes: Sequence[BaseRoute]) -> None:
    """Have the applications among these routes, at any depth, answer with problems. Before they serve."""
    for app in _mounted(routes):
        if app.middleware_stack is None:
            app.add_middleware(AnswerErrors)
            for kind, default in _DEFAULTS:
                if app.exception_handlers.get(kind) is default:  # else its owner has said what to answer
                    app.exception_handlers[kind] = problems.answer


def _mounted(routes: Sequence[BaseRoute]) -> Iterator[Starlette]:
    for context in iter_route_contexts(routes):
        route = context.original_route
        if isinstance(route, Mount):
            if isinstance(route.app, Starlette):
                yield route.app
            yield from _mounted(route.routes)
