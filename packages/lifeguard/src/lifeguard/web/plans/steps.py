"""The dependencies of a route, in the order in which FastAPI calls them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi.dependencies.models import (
    Dependant,
    _get_cache_key,
    _get_oauth_scopes,
    _is_coroutine_callable,
    _is_security_scheme,
)
from fastapi.security import SecurityScopes

from lifeguard.database import Database
from lifeguard.web.dependencies import BORROWING, database
from lifeguard.web.plans.arguments import Arguments
from lifeguard.web.plans.asked import Asked
from lifeguard.web.plans.internals import NotPlanned

Block = Callable[[Database], AbstractAsyncContextManager[Any]]


class Call:
    """A function of a route: what it takes, and from where."""

    __slots__ = ("_given", "_request_names", "_response_name", "_scopes", "arguments", "dependant")

    def __init__(self, dependant: Dependant, given: dict[str, int], *, embeds_body: bool) -> None:
        """`given`: which steps' results it takes, by the names of its parameters."""
        self.dependant = dependant
        self.arguments = Arguments(dependant, embeds_body=embeds_body)
        self._given = tuple(given.items())
        names = (dependant.http_connection_param_name, dependant.request_param_name)
        self._request_names = tuple(name for name in names if name)
        self._response_name = dependant.response_param_name
        name = dependant.security_scopes_param_name
        self._scopes = (name, _get_oauth_scopes(dependant=dependant)) if name else None

    @property
    def function(self) -> Callable[..., Any]:
        """What is called, as FastAPI would find it now."""
        assert self.dependant.call is not None
        return self.dependant.call

    @property
    def takes_request(self) -> bool:
        return bool(self._request_names)

    @property
    def takes_response(self) -> bool:
        return self._response_name is not None

    def complete(self, values: dict[str, Any], results: list[Any], asked: Asked, response: object) -> None:
        """Add to the arguments what does not have to be valid."""
        for name, step in self._given:
            values.setdefault(name, results[step])
        for name in self._request_names:
            values[name] = asked.request
        if self._response_name is not None:
            values[self._response_name] = response
        if self._scopes is not None:
            name, scopes = self._scopes
            values[name] = SecurityScopes(scopes=list(scopes))


class Step:
    """A dependency: one of the engine's own, or a coroutine function, which is called."""

    __slots__ = ("_gives_database", "block", "call", "is_called")

    def __init__(self, call: Call) -> None:
        function = call.function
        self.call = call
        self.block: Block | None = BORROWING.get(function)
        """What borrows for it."""
        self._gives_database = function is database
        # `is True`: an object may have any attribute that it is asked for.
        does_nothing = getattr(function, "does_nothing", False) is True
        self.is_called = not (self.block or self._gives_database or does_nothing)

    @property
    def asks_database(self) -> bool:
        return self._gives_database or self.block is not None

    def result(self, database: Any) -> Any:
        """That of a step which neither borrows nor is called."""
        return database if self._gives_database else None


def steps_of(dependant: Dependant, *, embeds_body: bool) -> tuple[list[Step], Call]:
    """The steps of a route, and its endpoint. Raises NotPlanned."""
    steps: list[Step] = []
    known: dict[Any, int] = {}
    endpoint = _solve(dependant, steps, known, embeds_body=embeds_body)
    _check_order([step.call for step in steps], endpoint)
    return steps, endpoint


def _solve(dependant: Dependant, steps: list[Step], known: dict[Any, int], *, embeds_body: bool) -> Call:
    """Add what comes before the call of this one, which is given back. `known` are results that are kept."""
    given: dict[str, int] = {}
    for needed in dependant.dependencies:
        call = _solve(needed, steps, known, embeds_body=embeds_body)
        key = _get_cache_key(dependant=needed)
        at = known.get(key) if needed.use_cache else None
        if at is None:
            _check(needed)
            at = len(steps)
            steps.append(Step(call))
        known.setdefault(key, at)
        if needed.name is not None:
            given[needed.name] = at
    return Call(dependant, given, embeds_body=embeds_body)


def _check(dependant: Dependant) -> None:
    if not _is_coroutine_callable(dependant.call):
        raise NotPlanned(f"its dependency {name_of(dependant)} is no coroutine function")
    if dependant.concurrency is not None:
        raise NotPlanned(f"its dependency {name_of(dependant)} has a limit of its own")
    if dependant.background_tasks_param_name:
        raise NotPlanned(f"its dependency {name_of(dependant)} takes BackgroundTasks")


def _check_order(calls: list[Call], endpoint: Call) -> None:
    """Refuse what may change the request before others read it: plans read all of it beforehand."""
    changing = having_body = ""
    for call in (*calls, endpoint):
        arguments = call.arguments
        if changing and (arguments.reads_parameters or arguments.reads_body):
            raise NotPlanned(f"its dependency {changing} takes the request, which others read after it")
        if having_body and arguments.reads_body:
            raise NotPlanned(f"its dependency {having_body} takes the body, which others read after it")
        if call.takes_request and not _only_reads(call.dependant):
            changing = name_of(call.dependant)
        if arguments.reads_body:
            having_body = name_of(call.dependant)


def _only_reads(dependant: Dependant) -> bool:
    call = dependant.call
    if getattr(call, "reads_no_content", False) is True:
        return True
    # A scheme of the owner's may have a __call__ of its own, which does whatever it wants.
    is_fastapis = getattr(type(call).__call__, "__module__", "").startswith("fastapi.security.")
    return is_fastapis and _is_security_scheme(dependant=dependant)


def name_of(dependant: Dependant) -> str:
    """The name of what a dependant calls, for a sentence."""
    call = dependant.call
    return f"{getattr(call, '__name__', None) or type(call).__name__}()"
