"""Counting requests, and writing a line for each."""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import Scope

from lifeguard.database import CallScope, call_scope
from lifeguard.observability import Metrics, logs
from lifeguard.observability.access_line import EVENT
from lifeguard.web import problems, request_head
from lifeguard.web.caller import route_template
from lifeguard.web.client import client_of
from lifeguard.web.failures import words_of
from lifeguard.web.gate import TURNED_AWAY
from lifeguard.web.turns import RECORD

# Machines request these every few seconds, or keep them open for hours: they are not counted, and logged
# only when they fail.
UNNOTED = frozenset({"/healthz", "/readyz", "/metrics", "/pool/live/events"})
_SERVER_ERROR = 500
_CLIENT_CLOSED_REQUEST = 499  # nginx's number for an answer that nobody waited for
_NO_PROBLEM = (None, None)


class RequestLog:
    """Of the requests of one app."""

    def __init__(self, metrics: Metrics, log: Any) -> None:  # Any: structlog's, as it is configured
        self._metrics = metrics
        self._log = log
        self._short_way = logs.access_line("lifeguard.request")

    def note(
        self, scope: Scope, call: CallScope, status: int, seconds: float, *, broken_off: bool = False
    ) -> None:
        """Count a request and write its line. `status` is 0 if its answer has not begun."""
        status = status or _CLIENT_CLOSED_REQUEST
        method: str = scope["method"]
        if RECORD in scope:
            scope[RECORD].is_answered(status)
        if TURNED_AWAY in scope:  # the gate writes a line for all of a second
            self._metrics.count(method, scope[TURNED_AWAY], status)
            return
        route = route_template(scope)
        if route not in UNNOTED:
            self._metrics.observe(method, route, status, seconds)
        elif status < _SERVER_ERROR and not broken_off:
            return
        level = logging.INFO if status < _SERVER_ERROR else logging.WARNING
        if not self._log.is_enabled_for(level):
            return
        milliseconds = round(seconds * 1000, 2)
        # `call` is looked up because structlog names the request that is under way in this context.
        is_plain = level == logging.INFO and not broken_off and call_scope.get() is call
        if is_plain and self._short_way is not None:
            _, problem = scope.get(problems.SCOPE_KEY) or _NO_PROBLEM
            if self._short_way.write(
                level="info",
                method=method,
                path=request_head.shown_path(scope),
                route=route,
                status=status,
                duration_ms=milliseconds,
                client=client_of(scope),
                tag=call.tag,
                problem=None if problem is None else problem.type,
            ):
                return
        line = _line(scope, route, status, milliseconds, broken_off=broken_off)
        self._log.log(level, EVENT, **line)


def _line(
    scope: Scope, route: str, status: int, milliseconds: float, *, broken_off: bool
) -> dict[str, object]:
    line: dict[str, object] = {
        "method": scope["method"],
        "path": request_head.shown_path(scope),
        "route": route,
        "status": status,
        "duration_ms": milliseconds,
        "client": client_of(scope),
    }
    if problems.SCOPE_KEY in scope:
        error, problem = scope[problems.SCOPE_KEY]
        line["problem"] = problem.type
        if status >= _SERVER_ERROR or broken_off:
            line["error"] = words_of(error)
    if broken_off:
        line["broken_off"] = True
    return line
