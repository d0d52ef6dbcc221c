"""How large the body of a request may be: `MAX_BODY_BYTES`, unless its route says otherwise.

    @router.post("/photos", dependencies=[max_body(2 * 2**20)])
    async def upload(request: Request) -> None:
        async for chunk in request.stream(): ...

The limit is known when the head is complete: a body that is announced as larger is refused unread, another
one at the first byte above the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from fastapi import Depends, params
from starlette.types import Scope

from lifeguard.settings import LARGEST_BODY
from lifeguard.web.routes import Routing, Served


def max_body(size: int) -> params.Depends:
    """Make a dependency that lets the bodies of its route have `size` bytes, whatever `MAX_BODY_BYTES` says.

    It is for a route, a router or an app; where several speak, the one nearest to the endpoint counts.
    Above `LARGEST_BODY` it raises ValueError. JSON has bounds of its own (`lifeguard.web.strict_json`): what
    is larger is taken as bytes, or with `Request.stream()`.
    """
    if not 0 <= size <= LARGEST_BODY:
        raise ValueError(f"max_body({size}): from 0 to {LARGEST_BODY} bytes")
    dependency: params.Depends = Depends(_MaxBody(size))
    return dependency


@dataclass(frozen=True)
class _MaxBody:
    does_nothing: ClassVar = True  # when it is called
    size: int

    async def __call__(self) -> None:
        """Do nothing: `BodyLimit` reads `size` before the endpoint is called."""


@cache
def _said_by(served: Served | None) -> int | None:
    sizes = [call.size for call in served.asks if isinstance(call, _MaxBody)] if served else []
    return sizes[-1] if sizes else None


class BodiesDoNotFit(Exception):
    """A route takes bodies that the process never holds; the message is one line."""


def refuse_what_never_fits(routing: Routing, most: int) -> None:
    """Raise BodiesDoNotFit if a route says that it takes more bytes than all requests together may have."""
    for served in routing.all_served():
        size = _said_by(served)
        if size is not None and size > most:
            said = f"max_body({size}) of {served.template}"
            raise BodiesDoNotFit(
                f"{said} is more than MAX_BUFFERED_BYTES={most}: it would refuse such a body"
            )


class BodyLimit:
    """Says how many bytes the body of a request may have."""

    def __init__(self, routing: Routing, default: int) -> None:
        self._routing = routing
        self._default = default

    def of(self, scope: Scope) -> int:
        if scope["method"] == "HEAD":  # may be served as a GET yet, see `lifeguard.web.head_as_get`
            return self._default
        said = _said_by(self._routing.choice(scope).served)
        return self._default if said is None else said
