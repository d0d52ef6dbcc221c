"""What requests go through before they reach a route: `service.protect(...)` takes these in their order.

Each can be left out, and what it does is then not done; nothing else changes.
"""

from __future__ import annotations

import lifeguard.lean  # noqa: F401 - first: it says why

# isort: split

from collections.abc import Callable

from starlette.middleware import Middleware

from lifeguard.operations.state import State
from lifeguard.web.body_limit import BodyLimit
from lifeguard.web.consistency import ConsistencyTokens
from lifeguard.web.gate import GateMiddleware
from lifeguard.web.hangup import HangupMiddleware
from lifeguard.web.head_as_get import HeadAsGet
from lifeguard.web.middleware import RequestMiddleware
from lifeguard.web.sockets import SocketMiddleware
from lifeguard.web.stale import StaleIfError

Protection = Callable[[State], Middleware]


def hangup(_: State) -> Middleware:
    """Cancel the work for a client that has gone."""
    return Middleware(HangupMiddleware)


def gate(parts: State) -> Middleware:
    """Refuse, before its body is read, what would find no connection in time."""
    return Middleware(GateMiddleware, gate=parts["gate"])


def stale_answers(parts: State) -> Middleware:
    """Give the last good answer of a route with `stale_if_error()` when a new one cannot be had."""
    return Middleware(
        StaleIfError,
        routing=parts["gate"].routing,
        name=parts["settings"].service_name,
        note=parts["metrics"].note_stale_answer,
    )


def head_as_get(parts: State) -> Middleware:
    """Answer `HEAD` wherever there is a `GET`."""
    return Middleware(HeadAsGet, routing=parts["gate"].routing)


def sockets(parts: State) -> Middleware:
    """Count WebSockets, and end them with the drain."""
    return Middleware(
        SocketMiddleware,
        drain=parts["drain"],
        metrics=parts["metrics"],
        lanes=parts["gate"].lanes,
        tokens=ConsistencyTokens(parts["database"], parts["settings"]),
    )


def requests(parts: State) -> Middleware:
    """Name, limit, log and count requests, and answer what they raise. The others need it around them."""
    return Middleware(
        RequestMiddleware,
        body_limit=BodyLimit(parts["gate"].routing, parts["settings"].max_body_bytes),
        buffered=parts["buffered"],
        drain=parts["drain"],
        metrics=parts["metrics"],
        lanes=parts["gate"].lanes,
        tokens=ConsistencyTokens(parts["database"], parts["settings"]),
    )


STANDARD: tuple[Protection, ...] = (hangup, gate, stale_answers, head_as_get, sockets, requests)
"""All of them, from the inside outwards."""
