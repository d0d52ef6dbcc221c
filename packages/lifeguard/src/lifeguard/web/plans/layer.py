"""Where plans stand: behind all middleware, in front of what FastAPI does with a request."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifeguard.web import at_once
from lifeguard.web.plans import internals
from lifeguard.web.plans.answers import Answer
from lifeguard.web.plans.asked import Asked
from lifeguard.web.plans.internals import NotPlanned
from lifeguard.web.plans.plan import FUNCTION_STACK, REQUEST_STACK, Plan, Values
from lifeguard.web.routes import WEBSOCKET, Routing, Served
from lifeguard.web.state import State

_PLAN = "plan"  # among what is noted of a route
_FAILURE = "lifeguard.plans.failure"
_STARTED: Message = {"type": "http.response.start", "status": 0, "headers": []}
"""Tells Starlette's error handling that the answer had begun; nobody is sent it."""
_SOCKETS = frozenset((WEBSOCKET,))
_MOUNTED = "only what is mounted there knows it"

_log = structlog.get_logger("lifeguard.plans")


class _Service(Protocol):
    @property
    def parts(self) -> State: ...
    @property
    def user_middleware(self) -> list[Middleware]: ...


def install(service: _Service) -> None:
    """Have the service's requests answered by plans, unless `PLANS=false`."""
    if not service.parts["settings"].plans:
        _log.info("plans_off", reason="PLANS=false")
        return
    routing = service.parts["gate"].routing
    service.user_middleware.append(Middleware(Plans, routing=routing))  # behind those that are added


@dataclass(frozen=True, slots=True)
class Report:
    routes: int
    planned: int
    unplanned: Mapping[str, str]
    """Why the others are not, by method and path."""


class Plans:
    """Answers requests of routes that have a plan, and hands all others on."""

    def __init__(self, app: ASGIApp, *, routing: Routing) -> None:
        self.app = app
        self._routing = routing
        self._router = routing.service.router
        self._off = internals.why_off() or internals.why_not_between(app, self._router)
        routing.notes["plans"] = self.report
        self._errors: Any = None
        self._handlers: object = None
        if not self._off:
            handling: Any = app
            self._handlers = (handling._exception_handlers, handling._status_handlers)  # noqa: SLF001
            self._errors = copy.copy(app)  # the handlers of the service's ExceptionMiddleware, ...
            self._errors.app = _failed  # ... and behind it what a plan has failed with

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            self._tell()
        if kind != "http" or self._off or "fastapi.telemetry" in scope or "path_params" in scope:
            await self.app(scope, receive, send)
            return
        choice = self._routing.choice(scope)
        plan = self._plan_of(choice.served) if choice.served is not None else None
        if (
            not isinstance(plan, Plan)
            or (plan.provider or self._routing.service).dependency_overrides
            or not plan.is_current
        ):
            await self.app(scope, receive, send)
            return
        asked = Asked(scope, receive, send)
        values = await plan.read(asked, choice)
        if values is None:
            await self.app(scope, asked.receive, send)
            return
        asked.take_body()
        scope["starlette.exception_handlers"] = self._handlers  # for an app that an endpoint has answer
        if "router" not in scope:
            scope["router"] = self._router
        plan.note(asked)
        try:
            if plan.is_plain:
                await _send(await plan.answer(asked, values), asked)
            else:
                await _answer_in_steps(plan, asked, values)
        except Exception as error:  # noqa: BLE001 - the service's handlers look at it
            await self._fail(error, asked)

    async def _fail(self, error: Exception, asked: Asked) -> None:
        """Have the service's handlers answer what a plan has failed with. Raises what none of them knows."""

        async def send(message: Message) -> None:
            if message is not _STARTED:
                await asked.send(message)

        asked.scope[_FAILURE] = error, asked
        await self._errors(asked.scope, asked.receive, send)

    def _plan_of(self, served: Served) -> Plan | str:
        """The plan of a route, or why it has none."""
        plan: Plan | str | None = served.noted.get(_PLAN)
        if plan is None:
            plan = served.noted[_PLAN] = self._compiled(served)
        return plan

    def _compiled(self, served: Served) -> Plan | str:
        if served.context is None or len(served.steps) != 1:
            return _MOUNTED
        try:
            internals.check_routers(served.context, self._routing.included)
            return Plan(served.context)
        except NotPlanned as reason:
            return str(reason)
        except Exception as error:  # noqa: BLE001 - FastAPI knows what to do with this route, or what to say
            return f"FastAPI is not as it was: {error!r}"

    def report(self) -> Report:
        """What there is of routes and plans now."""
        routes = [served for served in self._routing.all_served() if served.methods != _SOCKETS]
        why = {served: self._off or self._plan_of(served) for served in routes}
        unplanned = {
            f"{','.join(sorted(served.methods or ('*',)))} {served.place}": reason
            for served, reason in why.items()
            if isinstance(reason, str)
        }
        planned = sum(isinstance(plan, Plan) for plan in why.values())
        return Report(len(routes), planned, unplanned)

    def _tell(self) -> None:
        report = self.report()
        if self._off:
            _log.warning("plans_off", reason=self._off)
            return
        rest: dict[str, list[str]] = {}
        for route, reason in report.unplanned.items():
            rest.setdefault(reason, []).append(route)
        _log.info("plans", planned=report.planned, routes=report.routes, rest=rest)


async def _answer_in_steps(plan: Plan, asked: Asked, values: Values) -> None:
    """As FastAPI's `request_response` does it."""
    async with AsyncExitStack() as request_stack:
        asked.scope[REQUEST_STACK] = request_stack
        async with AsyncExitStack() as function_stack:
            asked.scope[FUNCTION_STACK] = function_stack
            answer = await plan.answer_in_steps(asked, values, function_stack)
        await _send(answer, asked)


async def _send(answer: Answer | Response, asked: Asked) -> None:
    if isinstance(answer, Response):
        await answer(asked.scope, asked.receive, asked.note_and_send)
        return
    status, headers, body = answer
    asked.has_started = True
    await at_once.answer(asked.send, status, headers, body)


async def _failed(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI app that fails as a plan has failed, inside of what FastAPI puts around each route."""
    error: Exception
    asked: Asked
    error, asked = scope.pop(_FAILURE)

    async def fail(_: Scope, __: Receive, send: Send) -> None:
        if asked.has_started:
            await send(_STARTED)
        raise error

    await wrap_app_handling_exceptions(fail, asked.request)(scope, receive, send)
