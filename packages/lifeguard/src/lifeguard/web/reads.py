"""Which parts of a request a route's answer depends on, by what its endpoint and dependencies declare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPBasic,
    HTTPBearer,
    HTTPDigest,
    OAuth2,
    OpenIdConnect,
)
from fastapi.security.http import HTTPBase
from pydantic import BaseModel
from starlette.routing import BaseRoute

_KEYS = {APIKeyHeader.__call__, APIKeyQuery.__call__, APIKeyCookie.__call__}
_AUTHORIZATION = {
    scheme.__call__ for scheme in (HTTPBase, HTTPBasic, HTTPBearer, HTTPDigest, OAuth2, OpenIdConnect)
}
ANYTHING = "takes the request itself, a body, or is of a class of its own: it may read anything"


@dataclass(frozen=True, slots=True)
class Reads:
    """What an answer depends on, besides the path and its parameters."""

    query: frozenset[str] | None = frozenset()
    """The parameters of the query; None for all of them."""
    headers: frozenset[bytes] = frozenset()
    """Names in small letters."""
    keys: frozenset[str] = frozenset()
    """Parameters of the query that identify the client."""
    anything: bool = False
    """Whether it may depend on anything."""

    def and_(self, other: Reads) -> Reads:
        """What both read together."""
        return Reads(
            None if self.query is None or other.query is None else self.query | other.query,
            self.headers | other.headers,
            self.keys | other.keys,
            self.anything or other.anything,
        )


NOBODY_KNOWS = Reads(anything=True)


def reads_of(route: BaseRoute, dependant: Dependant | None) -> Reads:
    """Find out what a route reads. `dependant` has its dependencies, with those of its routers and app."""
    if dependant is None or not isinstance(route, APIRoute) or _handles_itself(route):
        return NOBODY_KNOWS
    together = Reads()
    for part in _all(dependant):
        together = together.and_(_read_by(part))
    return together


def _read_by(part: Dependant) -> Reads:
    if (scheme := _scheme(part)) is not None:
        return _read_by_scheme(scheme)
    headers = [_names(field.name, field.field_info) for field in part.header_params]
    query = [_names(field.name, field.field_info) for field in part.query_params]
    if _takes_the_request(part) or None in headers:
        return NOBODY_KNOWS
    named = {name.lower() for names in headers for name in names or ()}
    named |= {name.replace("_", "-") for name in named} | ({"cookie"} if part.cookie_params else set())
    return Reads(
        None if None in query else frozenset(name for names in query for name in names or ()),
        _sendable(named),
    )


def _read_by_scheme(scheme: object) -> Reads:
    match scheme:
        case APIKeyQuery():
            return Reads(keys=frozenset({scheme.model.name}))
        case APIKeyHeader():
            return Reads(headers=_sendable({scheme.model.name.lower()}))
        case APIKeyCookie():
            return Reads(headers=frozenset({b"cookie"}))
        case _:
            return Reads(headers=frozenset({b"authorization"}))


def _sendable(names: Iterable[str]) -> frozenset[bytes]:
    """Names of headers as they are sent. One with other letters is in no request: its route alone fails."""
    return frozenset(name.encode("latin-1") for name in names if all(letter <= "\xff" for letter in name))


def _all(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _all(inner)


def _handles_itself(route: APIRoute) -> bool:
    return type(route).get_route_handler is not APIRoute.get_route_handler


def _scheme(dependant: Dependant) -> object | None:
    """The security scheme, if this is one of FastAPI's that reads as FastAPI's do; else None."""
    call = type(dependant.call).__call__ if dependant.call is not None else None
    return dependant.call if call in _KEYS or call in _AUTHORIZATION else None


def _takes_the_request(dependant: Dependant) -> bool:
    """Whether it takes the request or a body. Its attribute `reads_no_content` says that it uses neither."""
    if getattr(dependant.call, "reads_no_content", False) is True:
        return False
    taken = (
        dependant.request_param_name,
        dependant.http_connection_param_name,
        dependant.websocket_param_name,
    )
    return bool(dependant.body_params) or any(taken)


def _names(name: str, field: object) -> set[str] | None:
    """All names that it may have in a request. None: a model, whose fields may be anything."""
    annotation = getattr(field, "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None
    found = {name}
    for alias in (getattr(field, "alias", None), getattr(field, "validation_alias", None)):
        if isinstance(alias, str):
            found.add(alias)
        elif alias is not None:  # AliasChoices, AliasPath
            return None
    return found
