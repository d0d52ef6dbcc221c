"""A route's plan: how its requests are answered, as FastAPI would answer them."""

from __future__ import annotations

from contextlib import AsyncExitStack
from email.message import Message
from functools import lru_cache
from typing import Any

from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext
from starlette.responses import Response

from lifeguard.pool import borrows_for_the_endpoint
from lifeguard.web import strict_json
from lifeguard.web.plans import internals
from lifeguard.web.plans.answers import Answer, Answers, response_to_fill
from lifeguard.web.plans.asked import Asked
from lifeguard.web.plans.internals import NotPlanned
from lifeguard.web.plans.steps import Call, steps_of
from lifeguard.web.routes import Choice

FUNCTION_STACK = "fastapi_function_astack"
REQUEST_STACK = "fastapi_inner_astack"
"""Where FastAPI keeps its exit stacks in a request's scope."""

_JSON = b"application/json"
_LONGEST_TYPE = 100  # bytes of a content type that is looked at

Values = list[dict[str, Any]]
"""Of each step and then of the endpoint, what was read of the request."""


class Plan:
    """Made of what FastAPI's handler of the route knows. Raises NotPlanned."""

    __slots__ = (
        "_answers",
        "_app",
        "_asks_database",
        "_block",
        "_called",
        "_context",
        "_endpoint",
        "_fills_response",
        "_note",
        "_reads_body",
        "_steps",
        "is_plain",
        "provider",
    )

    def __init__(self, context: RouteContext) -> None:
        handler = internals.handler_of(context)
        dependant: Dependant = handler["dependant"]
        if handler["is_body_form"]:
            raise NotPlanned("it takes a form")
        if not handler["is_coroutine"]:
            raise NotPlanned("its endpoint is no coroutine function")
        if dependant.background_tasks_param_name:
            raise NotPlanned("it takes BackgroundTasks")
        self._context = context
        self._app = internals.app_of(context)
        self._answers = Answers(handler)
        self._reads_body = handler["body_field"] is not None
        self.provider = handler["dependency_overrides_provider"]
        """Has the `dependency_overrides`."""
        steps, self._endpoint = steps_of(dependant, embeds_body=handler["embed_body_fields"])
        self._steps = tuple(steps)
        calls = [*(step.call for step in steps), self._endpoint]
        self._fills_response = any(call.takes_response for call in calls)
        self._called = tuple(step for step in steps if step.is_called)
        blocks = [step.block for step in steps if step.block is not None]
        self._block = blocks[0] if blocks else None
        self.is_plain = not (self._called or self._endpoint.takes_request or len(blocks) > 1)
        """Whether nobody but the endpoint is called, so that nobody needs FastAPI's exit stacks."""
        self._asks_database = any(step.asks_database for step in steps)
        endpoint = context.endpoint
        self._note = {"endpoint": endpoint, "route": context.original_route}

    @property
    def is_current(self) -> bool:
        """Whether FastAPI would still do what it was made of."""
        return internals.app_of(self._context) is self._app

    async def read(self, asked: Asked, choice: Choice) -> Values | None:
        """All that the route takes from the request. None if FastAPI has to look at it: something is not
        valid, or not known."""
        try:
            if (path_params := choice.path_params()) is None:
                return None
            asked.path_params = path_params
            if self._reads_body and not await _read_document(asked):
                return None
            values: Values = []
            for step in self._called:
                if (read := await step.call.arguments.read(asked)) is None:
                    return None
                values.append(read)
            if (read := await self._endpoint.arguments.read(asked)) is None:
                return None
            values.append(read)
        except Exception:  # noqa: BLE001 - FastAPI runs into the same, and knows what to do
            return None
        return values

    def note(self, asked: Asked) -> None:
        """Note in the scope what the router would."""
        scope = asked.scope
        scope.update(self._note)
        scope["path_params"] = asked.path_params
        effective = self._context._route_context  # noqa: SLF001 - see tests' web/test_internals.py
        if effective is not None:
            scope["fastapi"] = {"effective_route_context": effective}

    @borrows_for_the_endpoint
    async def answer(self, asked: Asked, values: Values) -> Answer | Response:
        """Have a plain route answer. Raises what its endpoint raises, the database, and serialising."""
        database = self._database(asked)
        if self._block is None:
            return await self._ask(asked, values, [step.result(database) for step in self._steps])
        async with self._block(database) as lent:
            results = [lent if step.block else step.result(database) for step in self._steps]
            return await self._ask(asked, values, results)

    @borrows_for_the_endpoint
    async def answer_in_steps(self, asked: Asked, values: Values, stack: AsyncExitStack) -> Answer | Response:
        """Have a route answer that has dependencies of its own, with FastAPI's `stack` of what the endpoint
        leaves behind."""
        database = self._database(asked)
        results: list[Any] = []
        response = response_to_fill() if self._fills_response else None
        read = iter(values)
        for step in self._steps:
            if step.block is not None:
                results.append(await stack.enter_async_context(step.block(database)))
            elif step.is_called:
                arguments = next(read)
                step.call.complete(arguments, results, asked, response)
                results.append(await step.call.function(**arguments))
            else:
                results.append(step.result(database))
        return await self._ask(asked, values, results, response)

    def _database(self, asked: Asked) -> Any:  # Any: a Database, where somebody asks for it
        return asked.scope["state"]["database"] if self._asks_database else None

    async def _ask(
        self, asked: Asked, values: Values, results: list[Any], response: Response | None = None
    ) -> Answer | Response:
        """Call the endpoint; the results of the steps are there."""
        arguments = values[-1]
        endpoint: Call = self._endpoint
        if response is None and self._fills_response:
            response = response_to_fill()
        endpoint.complete(arguments, results, asked, response)
        returned = await endpoint.function(**arguments)
        if isinstance(returned, Response):
            return returned
        return self._answers.made_of(returned, response, asked.scope)


async def _read_document(asked: Asked) -> bool:
    """Read the body's JSON. False: it is none, or FastAPI is to read it."""
    content_type = next((value for name, value in asked.scope["headers"] if name == b"content-type"), b"")
    if content_type != _JSON and not _is_json(content_type[:_LONGEST_TYPE]):
        return False
    body = await asked.read_body()
    if not body:
        return False
    asked.document = strict_json.read(body)
    return True


@lru_cache(maxsize=64)
def _is_json(content_type: bytes) -> bool:
    """FastAPI's rule."""
    message = Message()
    message["content-type"] = content_type.decode("latin-1")
    if not content_type or len(content_type) == _LONGEST_TYPE:
        return False
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (
        subtype == "json" or subtype.endswith("+json")
    )
