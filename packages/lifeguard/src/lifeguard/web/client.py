"""The address of a request's client, for the log: operators block clients by it.

uvicorn believes `X-Forwarded-For` of the proxies in `FORWARDED_ALLOW_IPS`, and puts the address that the
last of them has seen into the scope. A request that is refused before it has a scope follows the same rule.
`Forwarded` (RFC 7239) is never used: uvicorn does not read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_LONGEST = 64
"""Characters; an address has 45. Where every peer is trusted, a client may write what it likes."""


def client_of(scope: Mapping[str, Any]) -> str | None:
    """Give the address of the client of this scope; None on a Unix socket without a proxy."""
    return _shown(scope.get("client"))


def forwarded_client(
    app: object, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]
) -> str | None:
    """Give what `client_of` would for a request that `app`, as uvicorn has wrapped it, does not get."""
    if isinstance(app, ProxyHeadersMiddleware) and (peer[0] if peer else None) in app.trusted_hosts:
        named = b", ".join(value for name, value in headers if name == b"x-forwarded-for")
        host, port = app.trusted_hosts.get_trusted_client_address(named.decode("latin-1"))
        if host:
            return _shown((host, port))
    return _shown(peer)


def _shown(client: tuple[str, int] | None) -> str | None:
    return client[0][:_LONGEST] if client else None
