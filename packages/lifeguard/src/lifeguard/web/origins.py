"""Which pages may open a WebSocket: a browser asks nobody before it does, and lets every page read it."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import Scope


def is_foreign(scope: Scope) -> bool:
    """Whether a page asks for this handshake that is neither from this host nor let in by `CORSMiddleware`.

    What is no browser sends no `Origin`, and is not meant.
    """
    host = b"".join(_all(scope, b"host")).decode("latin-1").lower()
    origins = [origin.decode("latin-1") for origin in _all(scope, b"origin")]
    return any(
        origin.partition("://")[2].lower() != host and not _is_let_in(scope, origin) for origin in origins
    )


def _all(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _is_let_in(scope: Scope, origin: str) -> bool:
    """Whether the app's `CORSMiddleware`, which looks at requests only, would let its pages read answers."""
    return any(
        issubclass(one.cls, CORSMiddleware)
        and CORSMiddleware(scope["app"], *one.args, **one.kwargs).is_allowed_origin(origin)
        for one in scope["app"].user_middleware
        if isinstance(one.cls, type)
    )
