"""`stale-if-error` (RFC 5861): an older answer instead of an error, for routes that ask for it.

    @router.get("/rates", dependencies=[stale_if_error(seconds=300)])

Its answers (200, whole, at most 256 KiB) are kept in memory. When the database, the pool, the gate or
the endpoint itself would make the answer a 500, 502, 503 or 504, the client gets the last one that is not
older than `seconds`, marked as such:

    Age: 42
    Cache-Status: "ledger"; fwd=stale; fwd-status=503; detail=stale-if-error

Ask for it where everybody gets the same answer and an old one does no harm: a history, not a balance.

An answer is kept for host, path and the parameters of the query. Kept out is a request with a parameter
that neither the route nor a dependency declares, which could otherwise push others' answers out; with a
header that one of them declares (`Header()`, a security scheme); with a header that identifies the client
(`Authorization`, `Cookie`, `X-Api-Key`, what authenticating proxies add); with conditions, ranges and a
`Cache-Control` of the client's own. What a route reads that takes the `Request` itself is not known, so none
of its answers is kept, and a log line says so; a dependency that makes no use of what clients send can say
that by an attribute, `reads_no_content = True`. What a middleware of your own reads from a request
is not seen: it must say so by `Vary`.

An answer stays out if it sets a cookie, varies by more than `Accept`, or if its `Cache-Control` does not
allow a shared cache to reuse it stale. A successful write to a path forgets what is kept for it (RFC 9111,
section 4.4).

Each process keeps its own. When the space is used up, the route with most answers loses some, first those
that only one client has asked for. So no client pushes out what others need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from operator import itemgetter
from time import monotonic
from urllib.parse import parse_qsl

import structlog
from fastapi import Depends, Request, params
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifeguard.web import problems
from lifeguard.web.client import client_of
from lifeguard.web.reads import ANYTHING
from lifeguard.web.routes import Routing, Served
from lifeguard.web.shelf import Answer, Headers, Key, Place, Shelf

MOST_ANSWERS = 1000
MOST_BYTES = 8 * 2**20
LARGEST_ANSWER = 2**18
"""Bytes of one answer, headers included."""

_SCOPE_KEY = "lifeguard.stale_if_error"
_ERRORS = frozenset((500, 502, 503, 504))
_OK, _INTERNAL = 200, 500
_SUCCESS = range(200, 400)
SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))

_EXCLUDING = frozenset(
    (
        # These identify the client, by its own word or by that of a proxy.
        *(b"authorization", b"proxy-authorization", b"cookie", b"dpop", b"x-api-key", b"x-auth-token"),
        *(b"remote-user", b"x-remote-user", b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded-groups"),
        *(b"x-forwarded-preferred-username", b"x-forwarded-access-token", b"x-forwarded-client-cert"),
        *(b"x-auth-request-user", b"x-auth-request-email", b"x-auth-request-access-token"),
        *(b"x-amzn-oidc-identity", b"x-amzn-oidc-data", b"x-goog-iap-jwt-assertion"),
        *(b"cf-access-jwt-assertion", b"x-client-cert", b"x-ssl-client-cert", b"ssl-client-cert"),
        b"x-consistency-token",  # asks for what is newer than a write
        b"cache-control",
        b"if-match",
        b"if-modified-since",
        b"if-none-match",
        b"if-range",
        b"if-unmodified-since",
        b"pragma",
        b"range",
    )
)
"""A request with one of these headers is served as if nothing had been kept."""

_FORBIDDING = frozenset(
    ("no-store", "no-cache", "private", "must-revalidate", "proxy-revalidate", "s-maxage")
)
"""Directives under which a shared cache must not give a stale answer (RFC 9111, section 4.2.4)."""


_log = structlog.get_logger("lifeguard.stale")


def stale_if_error(seconds: float) -> params.Depends:
    """Make a dependency that lets a GET route answer errors by what it said up to `seconds` ago."""
    dependency: params.Depends = Depends(_Keep(seconds))
    return dependency


@cache
def may_be_stale(served: Served | None) -> bool:
    """Whether a route asks for older answers by `stale_if_error`, and what they depend on is known."""
    if served is None or not any(isinstance(call, _Keep) for call in served.asks):
        return False
    if served.reads.anything:
        _log.warning("stale_if_error_off", route=served.template, reason=ANYTHING)
    return not served.reads.anything


@dataclass(frozen=True)
class _Keep:
    reads_no_content = True
    seconds: float

    async def __call__(self, request: Request) -> None:
        exchange: _StaleGet | None = request.scope.get(_SCOPE_KEY)
        if exchange is not None:
            exchange.keep_for = self.seconds


class StaleIfError:
    """Middleware around everything that may refuse a request, the gate included.

    Requests for other routes pass it by for the price of one look at their path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routing: Routing,
        name: str,
        note: Callable[[str], None],
        most_answers: int = MOST_ANSWERS,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`name` is the cache's in `Cache-Status`: letters, digits, dots, dashes, underscores. `note` gets
        the template of a route whenever an older answer replaces an error."""
        self.app = app
        self.name = name
        self.clock = clock
        self.shelf = Shelf(most_answers, most_bytes)
        self.note = note
        self.routing = routing

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            served = self.routing.choice(scope).served
            if scope["method"] == "GET":
                if served is not None and may_be_stale(served):
                    return _StaleGet(self, served, scope, send).run(receive)
            elif scope["method"] not in SAFE and self.shelf:
                send = self._forgetting(_place(scope), send)
        return self.app(scope, receive, send)

    def _forgetting(self, place: Place, send: Send) -> Send:
        async def forget_and_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _SUCCESS:
                self.shelf.forget(place)
            await send(message)

        return forget_and_send


class _StaleGet:
    """One GET of a route that asks for older answers, and its answer."""

    __slots__ = ("_layer", "_pending", "_replaced", "_scope", "_send", "_served", "_started", "keep_for")

    def __init__(self, layer: StaleIfError, served: Served, scope: Scope, send: Send) -> None:
        self._layer = layer
        self._served = served
        self._scope = scope
        self._send = send
        self._started = False
        self._replaced = False
        self._pending: Answer | None = None
        self.keep_for = 0.0
        """Seconds for which its answer may replace errors; 0 unless its route asks for it."""
        scope[_SCOPE_KEY] = self

    async def run(self, receive: Receive) -> None:
        try:
            await self._layer.app(self._scope, receive, self.send)
        except Exception as error:
            problem = problems.problem_of(error)
            # Before the answer, with whose last byte the log line is written.
            self._scope[problems.SCOPE_KEY] = (error, problem)
            if self._started or not await self._send_older(problem.status):
                raise
            if problem.status == _INTERNAL:
                _log.error("unforeseen_error", exc_info=error)

    async def send(self, message: Message) -> None:
        if self._replaced:  # what follows belongs to the error
            return
        if message["type"] == "http.response.start":
            self._started = True
            status = message["status"]
            if status in _ERRORS and await self._send_older(status):
                return
            if self.keep_for and status == _OK:
                self._begin_to_keep(list(message.get("headers", ())))
        elif self._pending is not None:
            self._go_on_keeping(self._pending, message)
        await self._send(message)

    async def _send_older(self, status: int) -> bool:
        """Send what was kept for this request, if there is anything, instead of an error."""
        layer = self._layer
        if status not in _ERRORS or not layer.shelf or not self._is_for_all():
            return False
        answer = self._find()
        now = layer.clock()
        if answer is None or now > answer.good_until:
            return False
        self._started = self._replaced = True
        layer.note(self._served.template)
        told = f'"{layer.name}"; fwd=stale; fwd-status={status}; detail=stale-if-error'
        headers = [
            *answer.headers,
            (b"age", str(int(now - answer.made_at)).encode()),
            (b"cache-status", told.encode("ascii")),
        ]
        await self._send({"type": "http.response.start", "status": _OK, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body})
        return True

    def _begin_to_keep(self, headers: Headers) -> None:
        if self._is_for_all() and _allows_keeping(headers):
            now = self._layer.clock()
            client = client_of(self._scope)
            self._pending = Answer(headers, b"", client, made_at=now, good_until=now + self.keep_for)

    def _go_on_keeping(self, answer: Answer, message: Message) -> None:
        answer.body += message.get("body", b"")
        if message["type"] != "http.response.body" or answer.size > LARGEST_ANSWER:
            self._pending = None
        elif not message.get("more_body", False):
            self._pending = None
            by_accept = bool(_listed(answer.headers, b"vary"))
            accept = _header(self._scope, b"accept") if by_accept else None
            self._layer.shelf.put(self._served, self._key(accept), answer)

    def _is_for_all(self) -> bool:
        """Whether nothing in the request identifies the client, or asks for more than the URL says."""
        reads = self._served.reads
        named = {name for name, _ in self._scope["headers"]}
        if not (_EXCLUDING.isdisjoint(named) and reads.headers.isdisjoint(named)):
            return False
        asked = {name for name, _ in _query(self._scope)}
        return (reads.query is None or asked <= reads.query) and reads.keys.isdisjoint(asked)

    def _key(self, accept: bytes | None) -> Key:
        # The order of several values of one name may matter, that of names does not.
        return _place(self._scope), tuple(sorted(_query(self._scope), key=itemgetter(0))), accept

    def _find(self) -> Answer | None:
        find = self._layer.shelf.find
        return find(self._key(None)) or find(self._key(_header(self._scope, b"accept")))


def _place(scope: Scope) -> Place:
    return _header(scope, b"host"), scope["path"]


def _query(scope: Scope) -> list[tuple[str, str]]:
    """The parameters of the query, as Starlette reads them."""
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _header(scope: Scope, wanted: bytes) -> bytes:
    return b", ".join(value for name, value in scope["headers"] if name == wanted)


def _allows_keeping(headers: Headers) -> bool:
    return (
        _FORBIDDING.isdisjoint(_listed(headers, b"cache-control"))
        and _listed(headers, b"vary") <= {"accept"}
        and not {b"set-cookie", b"age"} & {name.lower() for name, _ in headers}
    )


def _listed(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> set[str]:
    """Members of a list header in small letters, without their arguments."""
    values = (value.decode("latin-1").lower() for name, value in headers if name.lower() == wanted)
    members = (member.partition("=")[0].strip() for value in values for member in value.split(","))
    return {member for member in members if member}
