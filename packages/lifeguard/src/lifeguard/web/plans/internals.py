"""What plans read of FastAPI and Starlette beyond their documentation, and whether it is still there.

Tests' web/test_internals.py has the list. Where something has moved, plans are off and a log line says so:
they would rather not serve than serve wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fastapi
from fastapi import APIRouter, routing
from fastapi._compat.v2 import ModelField
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, RouteContext
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp

from lifeguard.web import strict_json, validation

KNOWN_FASTAPI = "0.165."
"""The versions whose way with a request plans repeat. Whoever changes it compares `REPEATED` first."""

REPEATED = (
    *("request_response", "get_request_handler", "serialize_response", "run_endpoint_function"),
    *("_build_response_args", "_extract_endpoint_context"),
)
"""Functions of `fastapi.routing` that plans do the work of, or call."""
REPEATED_OF_DEPENDENCIES = (
    *("solve_dependencies", "_solve_generator", "_validate_value_with_model_field", "_get_multidict_value"),
    *("request_params_to_args", "request_body_to_args", "_get_param_aliases", "_get_param_model"),
)
"""Functions of `fastapi.dependencies.utils` of which the same is true."""

HANDLER = "get_request_handler.<locals>.app"
_WRAPPER = "request_response.<locals>.app"
HANDLER_KNOWS = frozenset(
    (
        *("actual_response_class", "actual_strict_content_type", "body_field", "dependant"),
        *("dependency_overrides_provider", "embed_body_fields", "form_limits", "is_body_form"),
        *("is_coroutine", "is_json_stream", "is_sse_stream", "response_class", "response_field"),
        *("response_model_by_alias", "response_model_exclude", "response_model_exclude_defaults"),
        *("response_model_exclude_none", "response_model_exclude_unset", "response_model_include"),
        *("status_code", "stream_item_field"),
    )
)
"""All that FastAPI's handler of a route depends on. One name more is something that plans do not do."""
_ROUTING = ("app", "handle", "matches", "__call__")


class NotPlanned(Exception):
    """A route that is left to FastAPI; the message says why."""


def why_off() -> str:
    """Why no plans can be made in this process; empty if they can."""
    if not fastapi.__version__.startswith(KNOWN_FASTAPI):
        return f"plans know FastAPI {KNOWN_FASTAPI}x, and this is {fastapi.__version__}"
    if ModelField.validate is not validation.validate or Request.json is not strict_json.read_body:
        return "something else has taken the place of FastAPI's validation, or of Request.json()"
    return ""


def why_not_between(app: ASGIApp, router: APIRouter) -> str:
    """Why plans cannot answer in front of `app`, which ends at the service's router; empty if they can."""
    try:
        if type(app) is not ExceptionMiddleware or type(app.app) is not AsyncExitStackMiddleware:
            return "there is a middleware behind them"
        if app.app.app is not router or router.middleware_stack != router.app or not _routes_plainly(router):
            return "the service's router is not FastAPI's"
    except AttributeError as error:
        return f"FastAPI is not as it was: {error!r}"
    return ""


def _routes_plainly(router: APIRouter) -> bool:
    """Whether a router does no more than FastAPI's: neither its class nor it itself has other methods."""
    kind = type(router)
    inherited = (getattr(kind, name) is getattr(APIRouter, name) for name in _ROUTING)
    return all(inherited) and {"app", "handle", "matches"}.isdisjoint(vars(router))


def app_of(context: RouteContext) -> ASGIApp:
    """What FastAPI calls when it has chosen this route."""
    app: ASGIApp = context.app
    return app


def handler_of(context: RouteContext) -> dict[str, Any]:
    """All that FastAPI's handler of a route depends on, by name.

    Raises NotPlanned for a route that is handled by anything else.
    """
    route = context.original_route
    if type(route) is not APIRoute or not {"handle", "matches"}.isdisjoint(vars(route)):
        raise NotPlanned("its route is of a class of its own, or no path operation")
    wrapper = _free(app_of(context), _WRAPPER)
    handler = _free(wrapper["f"], HANDLER)
    if handler.keys() != HANDLER_KNOWS:
        raise NotPlanned("FastAPI handles requests in a way that plans do not know")
    return handler


def _free(function: Any, name: str) -> dict[str, Any]:  # Any: an ASGI app, or a handler
    """The variables around a function of FastAPI's."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_qualname != name or code.co_filename != routing.__file__:
        raise NotPlanned("something is wrapped around FastAPI's handler of it")
    cells = function.__closure__ or ()
    return dict(zip(code.co_freevars, (cell.cell_contents for cell in cells), strict=True))


def check_routers(context: RouteContext, included: Iterable[APIRouter]) -> None:
    """Raise NotPlanned if a router may do something else on the way to a route. `included` are all of them:
    which ones are on its way is not known."""
    if context._route_context is not None and not all(map(_routes_plainly, included)):  # noqa: SLF001
        raise NotPlanned("there is a router of a class of its own")
