"""Which route the router will choose, known before it does: middleware needs it earlier.

The router's own answer costs a `matches()` a route, for every request. So its rules are compiled once, to one
pattern a method: routes in their order, prefixes resolved, what is mounted in its place. A pattern gives
the first route that takes path and method, as the router does, and what it has found in the path. A path
without placeholders is looked up. What cannot be compiled (a `Host`, a route class with rules of its own) is
asked at its place.

When routes are added, replaced or removed, all is compiled again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import (
    APIRoute,
    APIRouter,
    APIWebSocketRoute,
    RouteContext,
    _IncludedRouter,
    iter_route_contexts,
)
from starlette._utils import get_route_path
from starlette.convertors import Convertor, StringConvertor
from starlette.routing import BaseRoute, Match, Mount, Route, WebSocketRoute

from lifeguard.web.reads import NOBODY_KNOWS, Reads, reads_of

_SCOPE_KEY = "lifeguard.choice"
_MOUNT_TAIL = "/(?P<path>.*)$"
_ANY = ""  # for the methods that no route names
WEBSOCKET = "WEBSOCKET"
"""In place of a method, for a WebSocket's handshake: its scope has none."""


_COMPILED = {Route.matches, APIRoute.matches, WebSocketRoute.matches, APIWebSocketRoute.matches}
"""The `matches` methods that are compiled; other classes may have other rules."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """What serves a request."""

    template: str
    """The whole path, placeholders unfilled; `none` if only the mounted application knows."""
    asks: tuple[object, ...]
    """What its dependencies call, at any depth: those of the app first, of its own signature last."""
    reads: Reads = NOBODY_KNOWS
    """What of a request its answer is made from."""
    steps: tuple[_Step, ...] = ()
    """How the router gets there: what it is mounted under, and its own."""
    methods: frozenset[str] | None = None
    """None takes all."""
    noted: dict[str, Any] = field(default_factory=dict)
    """What others have found out about it, by method: it lasts as long as this."""
    context: RouteContext | None = None
    """The route itself, with the prefixes it is included under."""

    @property
    def place(self) -> str:
        """The template, or what is mounted where only the mounted application knows it."""
        if self.template == _UNKNOWN and self.steps:
            return "".join(step.path for step in self.steps)
        return self.template

    def path_params(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """What the router will find in the path of this scope, before it does."""
        path: str = get_route_path(scope)  # type: ignore[arg-type]  # reads it only
        found: dict[str, Any] = {}
        for step in self.steps:
            if (match := step.pattern.match(path)) is None:
                break
            texts = match.groupdict()
            if step.leads_on:
                rest = texts.pop("path")
                path = path if step.is_detached else f"/{rest}"
            found |= {name: step.convertors[name].convert(text) for name, text in texts.items()}
        return found


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of the way to what serves: a mount, or the route at the end."""

    path: str
    pattern: re.Pattern[str]
    convertors: Mapping[str, Convertor[Any]]
    leads_on: bool = False
    is_detached: bool = False
    """Whether what is mounted sees the whole path."""


_UNKNOWN = "none"


_Readers = tuple[tuple[str, int, Callable[[str], Any] | None], ...]
"""For each placeholder its name, its group, and what converts it if anything does."""


class Choice:
    """What the router will choose for one request, and from what that was found."""

    __slots__ = ("_found", "method", "path", "root_path", "routing", "served")

    def __init__(self, routing: Routing, scope: Mapping[str, Any]) -> None:
        self.routing = routing
        self.method: str = scope.get("method", WEBSOCKET)
        self.path: str = scope["path"]
        self.root_path: str = scope.get("root_path", "")
        self._found = found = routing.look_up(scope)
        self.served = found.served if found else None
        """None: no route takes this path and method."""

    def is_for(self, scope: Mapping[str, Any]) -> bool:
        """Whether it was made for what this scope says now: a middleware may have changed that."""
        said = scope["path"], scope.get("method", WEBSOCKET), scope.get("root_path", "")
        return said == (self.path, self.method, self.root_path)

    def path_params(self) -> dict[str, Any] | None:
        """What the router will find in the path; None for what is mounted. Raises what a convertor does."""
        return self._found.params() if self._found else None


_REFERS = re.compile(r"\(\?P=|\(\?\(|(?<!\\)(?:\\\\)*\\[1-9]")
"""A group of a convertor's that is referred to: by its name, or by a number that is another's in a table."""


class _Found:
    """What serves a path, and where the path says what."""

    __slots__ = ("match", "readers", "served")

    def __init__(
        self, served: Served, readers: _Readers | None = None, match: re.Match[str] | None = None
    ) -> None:
        self.served = served
        self.readers = readers
        """None: the pattern alone does not say it."""
        self.match = match

    def params(self) -> dict[str, Any] | None:
        if (match := self.match) is None or self.readers is None:
            return None if self.readers is None else {}
        return {
            name: convert(match[group]) if convert else match[group] for name, group, convert in self.readers
        }


_BY_OTHERS = _Found(Served(_UNKNOWN, ()))


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: str
    methods: frozenset[str] | None
    """None takes all."""
    served: Served
    convertors: Mapping[str, Convertor[Any]] | None = None
    """By the pattern's groups in their order; None where the pattern alone does not say what is in a path."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """Their numbers."""


class Routing:
    """The routes of a service, as its router goes through them."""

    def __init__(self, service: FastAPI) -> None:
        self.service = service
        self._seen: list[BaseRoute] | None = None
        self.included: tuple[APIRouter, ...] = ()
        """The routers that it includes, at any depth."""
        self._version = 0
        self.notes: dict[str, Callable[[], object]] = {}
        """What parts that a service can do without say of its routes, for `/pool`."""
        self._rules: dict[bool, list[_Rule | BaseRoute]] = {}
        self._tables: dict[tuple[str, bool], list[_Table | BaseRoute]] = {}
        self._methods: frozenset[str] = frozenset()

    @property
    def root_path(self) -> str:
        """The service's own."""
        return self.service.root_path

    def choice(self, scope: Any) -> Choice:
        """What the router will choose for the request of this scope; found out once a request.

        Ask before the router has begun: what it mounts changes the scope.
        """
        made: Choice | None = scope.get(_SCOPE_KEY)
        if made is None or made.routing is not self or not made.is_for(scope):
            made = Choice(self, scope)
            scope[_SCOPE_KEY] = made
        return made

    def find(self, scope: Mapping[str, Any]) -> Served | None:
        """What serves `method` and `path` of a scope, of which `root_path` and `headers` count too."""
        return found.served if (found := self.look_up(scope)) else None

    def look_up(self, scope: Mapping[str, Any]) -> _Found | None:
        """What serves it, and where that is said."""
        if self._seen != self.service.routes or self._version != self._version_now():
            self._read()
        path: str = get_route_path(scope)  # type: ignore[arg-type]  # reads it only
        # A root path that the path does not begin with: what is mounted then sees the whole path.
        detached = bool(scope.get("root_path")) and path == scope["path"]
        method = scope.get("method", WEBSOCKET)
        key = (method if method in self._methods else _ANY, detached)
        for table in self._tables.get(key) or self._compile(*key):
            if isinstance(table, _Table):
                if found := table.find(path):
                    return found
            elif table.matches(dict(scope))[0] is Match.FULL:
                return _BY_OTHERS
        return None

    def all_served(self) -> Iterator[Served]:
        """Give what serves requests, as far as that is known without one."""
        if self._seen != self.service.routes or self._version != self._version_now():
            self._read()
        return (rule.served for rule in self._rules[False] if isinstance(rule, _Rule))

    def methods_of(self, scope: Mapping[str, Any]) -> list[str]:
        """The methods that this path knows, which may belong to several routes; HEAD wherever GET is."""
        known = {m for m in self._methods - {WEBSOCKET} if self.find({**scope, "method": m})}
        return sorted(known | {"HEAD"} if "GET" in known else known)

    def _version_now(self) -> int:
        """It grows whenever a router that is included gets another route."""
        version = 0
        for router in self.included:
            version += router._routes_version + len(router.routes)  # noqa: SLF001 - see tests' test_internals.py
        return version

    def _read(self) -> None:
        routes = self.service.routes
        self._seen = list(routes)
        self.included = tuple(_included(routes))
        self._version = self._version_now()
        self._tables.clear()
        self._rules = {detached: list(_rules(routes, detached=detached)) for detached in (False, True)}
        rules = (rule for rule in self._rules[False] if isinstance(rule, _Rule))
        self._methods = frozenset().union(*(rule.methods or () for rule in rules))

    def _compile(self, method: str, detached: bool) -> list[_Table | BaseRoute]:
        tables: list[_Table | BaseRoute] = []
        rules: list[_Rule] = []
        for rule in self._rules[detached]:
            if isinstance(rule, BaseRoute):
                tables += [_Table(rules), rule]
                rules = []
            elif rule.methods is None or method in rule.methods:
                rules.append(rule)
        tables.append(_Table(rules))
        self._tables[method, detached] = tables
        return tables


class _Table:
    """Rules of one method in one pattern, a group for each."""

    def __init__(self, rules: Sequence[_Rule]) -> None:
        self._served: dict[int, tuple[Served, _Readers | None]] = {}
        group = 1
        for rule in rules:
            self._served[group] = rule.served, _readers(rule, group)
            group += 1 + re.compile(rule.pattern).groups  # converters may have groups of their own
        self._match = re.compile("|".join(f"({rule.pattern})" for rule in rules) or r"(?!)").match
        self._plain: dict[str, _Found] = {}
        """Paths that routes without placeholders have. What they find there, an earlier route it may be."""
        for rule in rules:
            if rule.convertors == {} and (found := self.find(rule.served.template)):
                self._plain[rule.served.template] = found

    def find(self, path: str) -> _Found | None:
        if found := self._plain.get(path):
            return found
        match = self._match(path)
        return _Found(*self._served[match.lastindex], match) if match and match.lastindex else None


def _readers(rule: _Rule, group: int) -> _Readers | None:
    if rule.convertors is None:
        return None
    return tuple(
        (name, group + rule.groups[name], None if type(convertor) is StringConvertor else convertor.convert)
        for name, convertor in rule.convertors.items()
    )


def _included(routes: Sequence[BaseRoute]) -> Iterator[APIRouter]:
    for route in routes:
        if isinstance(route, _IncludedRouter):
            yield route.original_router
            yield from _included(route.original_router.routes)


def choice_of(scope: Mapping[str, Any]) -> Choice | None:
    """Give the choice that a middleware has asked for already, if one has."""
    choice: Choice | None = scope.get(_SCOPE_KEY)
    return choice


def _rules(
    routes: Sequence[BaseRoute],
    *,
    detached: bool,
    above: str = "",
    prefix: str = "",
    way: tuple[_Step, ...] = (),
) -> Iterator[_Rule | BaseRoute]:
    """Yield a rule a route, in their order; `above` is the pattern of what they are mounted under, `way` the
    mounts."""
    for context in iter_route_contexts(routes):
        route = context.original_route
        refers = _REFERS.search(getattr(getattr(context, "path_regex", None), "pattern", ""))
        if isinstance(route, (Route, WebSocketRoute)) and type(route).matches in _COMPILED and not refers:
            handshake = isinstance(route, WebSocketRoute)
            methods = frozenset([WEBSOCKET] if handshake else context.methods or ()) or None
            asks = tuple(_calls(getattr(context, "dependant", None)))
            regex: re.Pattern[str] = context.path_regex
            reads = reads_of(route, getattr(context, "dependant", None))
            steps = (*way, _Step(context.path or "", regex, context.param_convertors))
            served = Served(f"{prefix}{context.path}", asks, reads, steps, methods, context=context)
            if way:
                yield _Rule(_below(above, _unnamed(regex.pattern), detached=detached), methods, served)
            else:
                pattern = _unnamed(regex.pattern, capturing=True)
                yield _Rule(pattern, methods, served, context.param_convertors, regex.groupindex)
        elif isinstance(route, Mount) and type(route).matches is Mount.matches and not refers:
            yield from _mounted(context, route, detached=detached, above=above, prefix=prefix, way=way)
        elif above:  # to ask it, one would have to change the scope as a Mount does
            yield _Rule(above, None, Served(_UNKNOWN, (), steps=way))
            return
        else:
            yield _route_of(context)


def _mounted(
    context: RouteContext, mount: Mount, *, detached: bool, above: str, prefix: str, way: tuple[_Step, ...]
) -> Iterator[_Rule | BaseRoute]:
    """What is mounted, and after it nothing: the router does not come back from there."""
    head = _unnamed(context.path_regex.pattern.removesuffix(_MOUNT_TAIL))
    tail = "(?=/.*$)"
    # Atomic: the mount has taken its part of the path before anybody below it looks at the rest.
    taken = f"(?>{_below(above, head, detached=False)}{tail})"
    below = f"{above}(?={head}{tail})" if detached else taken
    path = context.path or ""
    way = (*way, _Step(path, context.path_regex, context.param_convertors, True, detached))
    if not getattr(mount.app, "root_path", ""):  # else it does not see the path that it is mounted at
        yield from _rules(mount.routes, detached=detached, above=below, prefix=f"{prefix}{path}", way=way)
    yield _Rule(below, None, Served(_UNKNOWN, (), steps=way))


def _below(above: str, pattern: str, *, detached: bool) -> str:
    return above + (pattern if detached or not above else pattern.removeprefix("^"))


def _unnamed(pattern: str, *, capturing: bool = False) -> str:
    return re.sub(r"\(\?P<\w+>", "(" if capturing else "(?:", pattern)


def _route_of(context: RouteContext) -> BaseRoute:
    """The route with the prefixes it is included under."""
    route = context._effective_route  # noqa: SLF001 - see packages/lifeguard/tests/web/test_internals.py
    return route if isinstance(route, BaseRoute) else context.original_route


def _calls(dependant: Dependant | None) -> Iterator[object]:
    if dependant is not None:
        for dependency in dependant.dependencies:
            yield dependency.call
            yield from _calls(dependency)
