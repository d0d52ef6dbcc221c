"""The address of a request's client, for the log: operators block clients by it.

uvicorn believes `X-Forwarded-For` of the proxies in `FORWARDED_ALLOW_IPS`, and puts the address that the
last of them has seen into the scope. Here is the same rule, for requests that are refused before they have a
scope, and for `lifeguard.server`, which does the work of uvicorn's middleware where headers are read anyway.
`Forwarded` (RFC 7239) is never used: uvicorn does not read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Protocol

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_LONGEST = 64
"""Characters; an address has 45. Where every peer is trusted, a client may write what it likes."""
_SCHEMES = frozenset(("http", "https", "ws", "wss"))


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


class TrustedHosts(Protocol):
    """uvicorn's list of proxies: `ProxyHeadersMiddleware.trusted_hosts`."""

    def __contains__(self, host: str | None) -> bool: ...

    def get_trusted_client_address(self, x_forwarded_for: str) -> tuple[str, int]: ...


def believe(proxies: TrustedHosts, scope: MutableMapping[str, Any]) -> None:
    """Put what a proxy has said of a request's client into its scope, as uvicorn's middleware does."""
    client = scope["client"]
    if (client[0] if client else None) not in proxies:
        return
    scheme, addresses = None, []
    for name, value in scope["headers"]:
        if name == b"x-forwarded-proto":
            scheme = value.decode("latin-1").strip()
        elif name == b"x-forwarded-for":
            addresses.append(value)
    if scheme in _SCHEMES:
        scope["scheme"] = scheme
    if addresses:
        host, port = proxies.get_trusted_client_address(b", ".join(addresses).decode("latin-1"))
        if host:
            scope["client"] = (host, port)


def _shown(client: tuple[str, int] | None) -> str | None:
    return client[0][:_LONGEST] if client else None
