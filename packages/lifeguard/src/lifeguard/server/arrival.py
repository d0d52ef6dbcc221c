"""What a request is told on arrival, before there is a parser, a scope or a task for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from lifeguard.pool import Priority
from lifeguard.server.framing import Head
from lifeguard.web import request_head
from lifeguard.web.app import App
from lifeguard.web.gate import Gate, Refusal
from lifeguard.web.lanes import priority_of

_MAY_BE_REFUSED = frozenset(
    (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")
)  # not HEAD: its answer has no body
_ORDINARY_CONNECTIONS = frozenset((b"", b"keep-alive", b"close"))

Fields = Iterable[tuple[bytes, bytes]]


class TurnedAway(NamedTuple):
    """A request that is refused on arrival."""

    refusal: Refusal
    method: str
    tag: bytes
    """Its id; empty if it has none that can be kept."""
    closes: bool
    """Whether its client wants the connection closed."""


def turned_away(
    head: Head, gate: Gate, client: Callable[[Fields], str | None], state: Mapping[str, Any]
) -> TurnedAway | None:
    """Say how the request is refused, if it could not be served in time. None: it is the app's to answer.

    The app also answers what is out of the ordinary, where the same gate stands: paths to be decoded,
    targets with a host, expectations, HEAD, HTTP/1.0.
    """
    raw, lowered = head.raw, head.lowered
    method, target, version = raw[: raw.index(b"\r\n")].split(b" ")
    if method not in _MAY_BE_REFUSED or version != b"HTTP/1.1" or b"%" in target or target[:1] != b"/":
        return None
    if head.is_special and (b"\r\nexpect:" in lowered or b"\r\nupgrade:" in lowered):
        return None
    connection = _connection_of(lowered)
    if connection not in _ORDINARY_CONNECTIONS:
        return None
    fields = _Fields(raw)
    said = _said(fields) if b"\r\nx-request-" in lowered else _NOTHING_SAID
    if said is None:
        return None
    verb = method.decode("ascii")
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    refusal = gate.refusal_on_arrival(
        verb,
        path,
        fields,
        said.budget,
        lambda: client(fields),
        query=query,
        state=state,
        priority=said.priority,
    )
    return TurnedAway(refusal, verb, said.tag, connection == b"close") if refusal else None


class _Said(NamedTuple):
    """What a client says of its request."""

    tag: bytes = b""
    budget: float | None = None
    priority: Priority | None = None


_NOTHING_SAID = _Said()


def _said(fields: Fields) -> _Said | None:
    """Read it. None: something of it cannot be read."""
    tag, budget, priority = _NOTHING_SAID
    for name, value in fields:
        if name == b"x-request-id" and request_head.is_valid_id(value):
            tag = value
        elif name == b"x-request-timeout":
            budget = request_head.seconds(value)
            if budget is None:
                return None
        elif name == b"x-request-priority":
            priority = priority_of(value)
            if priority is None:
                return None
    return _Said(tag, budget, priority)


def _connection_of(lowered: bytes) -> bytes | None:
    """The value of the field Connection, empty without it; None if there are several."""
    at = lowered.find(b"\r\nconnection:")
    if at < 0:
        return b""
    if lowered.find(b"\r\nconnection:", at + 1) > 0:
        return None
    return lowered[at + len(b"\r\nconnection:") : lowered.index(b"\r\n", at + 1)].strip(b" \t")


class _Fields:
    """The fields of a head, taken apart only if somebody looks at them: nobody does at most."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        for line in self._raw.split(b"\r\n")[1:-2]:
            name, _, value = line.partition(b":")
            yield name.lower(), value.strip(b" \t")


def meets_requests_first(app: object) -> bool:
    """Whether a request that `app` refuses would meet nothing on its way but the house's own middleware.

    Where it would, for instance CORS, without whose headers a browser shows the refusal to nobody, the
    app refuses: dearer, and in the words of all.
    """
    while isinstance(app, ProxyHeadersMiddleware):  # uvicorn's, which changes no answer
        app = app.app
    return isinstance(app, App) and app.meets_requests_first
