"""Which paths belong to routes that depend on something: middleware asks before there is a route."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts


class PathsThatAsk:
    """The paths of the routes among whose dependencies, at any depth, is one that `asks_for` accepts."""

    def __init__(self, service: FastAPI, asks_for: Callable[[object], bool]) -> None:
        self._service = service
        self._asks_for = asks_for
        self._pattern: re.Pattern[str] | None = None
        self._templates: list[str] = []

    def template_of(self, path: str) -> str | None:
        """The template of the route that serves this path, if it is one of those."""
        match = (self._pattern or self._read()).fullmatch(path)
        return self._templates[match.lastindex - 1] if match and match.lastindex else None

    def _read(self) -> re.Pattern[str]:
        """One pattern, a group for each path; made at the first request, when all routes are there."""
        paths: dict[str, str] = {}
        for route in iter_route_contexts(self._service.routes):
            if any(map(self._asks_for, _calls(getattr(route, "dependant", None)))):
                unnamed = re.sub(r"\(\?P<\w+>", "(?:", route.path_regex.pattern)
                paths[str(route.path)] = f"({unnamed})"
        self._templates = list(paths)
        self._pattern = re.compile("|".join(paths.values()) or r"(?!)")
        return self._pattern


def methods_of(service: FastAPI, path: str) -> list[str]:
    """The methods that this path knows, which may belong to several routes."""
    found: set[str] = set()
    for route in iter_route_contexts(service.routes):
        if route.path_regex.match(path):
            found |= route.methods or set()
    return sorted(found)


def _calls(dependant: Dependant | None) -> Iterator[object]:
    if dependant is not None:
        for dependency in dependant.dependencies:
            yield dependency.call
            yield from _calls(dependency)
