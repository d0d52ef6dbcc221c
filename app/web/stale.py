"""`stale-if-error` (RFC 5861): rather an older answer than none, for the routes that ask for it.

    @router.get("/rates", dependencies=[stale_if_error(seconds=300)])

Its answers (200, whole, at most 256 KiB) are kept in memory. When the database, the pool, the gate or
the endpoint itself would have a client told 500, 502, 503 or 504, he gets the last one that is not
older than `seconds`, and is told so:

    Age: 42
    Cache-Status: "ledger"; fwd=stale; fwd-status=503; detail=stale-if-error

Ask for it where everybody gets the same answer and an old one does no harm: a history, not a balance.
What says who is asking (`Authorization`, `Cookie`) keeps a request out of it, and so do conditions,
ranges and a `Cache-Control` of the client's own. An answer stays out if it sets a cookie, varies by more
than `Accept`, or if its `Cache-Control` does not allow a shared cache to reuse it stale. A successful
write to a URL forgets the answer kept for it (RFC 9111, section 4.4). Each process keeps its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import cache
from time import monotonic

import structlog
from fastapi import Depends, Request, params
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.web import problems
from app.web.routes import Routing, Served

MOST_ANSWERS = 1000
MOST_BYTES = 8 * 2**20
LARGEST_ANSWER = 2**18
"""Bytes of one answer, headers included."""

_SCOPE_KEY = "app.stale_if_error"
_ERRORS = frozenset((500, 502, 503, 504))
_OK, _INTERNAL = 200, 500
_SUCCESS = range(200, 400)
_SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))

_EXCLUDING = frozenset(
    (
        b"authorization",
        b"cache-control",
        b"cookie",
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

Headers = list[tuple[bytes, bytes]]
Target = tuple[bytes, str, bytes]
"""Host, path and query: two tenants by host are two targets."""

_log = structlog.get_logger("app.stale")


def stale_if_error(seconds: float) -> params.Depends:
    """Make a dependency that lets a GET route answer errors by what it said up to `seconds` ago."""
    dependency: params.Depends = Depends(_Keep(seconds))
    return dependency


@cache
def may_be_stale(served: Served | None) -> bool:
    """Whether among what it depends on is what `stale_if_error` has made."""
    return served is not None and any(isinstance(call, _Keep) for call in served.asks)


@dataclass(frozen=True)
class _Keep:
    seconds: float

    async def __call__(self, request: Request) -> None:
        exchange: _Exchange | None = request.scope.get(_SCOPE_KEY)
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
        """`name` is the cache's in `Cache-Status`: letters, digits, dots, dashes, underscores. `note` is told
        the template of a route whenever an older answer stands in."""
        self.app = app
        self.name = name
        self.clock = clock
        self.shelf = _Shelf(most_answers, most_bytes)
        self.note = note
        self._routing = routing

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            served = self._routing.choice(scope).served
            if scope["method"] == "GET":
                if served is not None and may_be_stale(served):
                    return _Exchange(self, served.template, scope, send).run(receive)
            elif scope["method"] not in _SAFE and self.shelf:
                send = self._forgetting(_target(scope), send)
        return self.app(scope, receive, send)

    def _forgetting(self, target: Target, send: Send) -> Send:
        async def forget_and_send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _SUCCESS:
                self.shelf.remove(target)
            await send(message)

        return forget_and_send


class _Exchange:
    """One GET and its answer."""

    __slots__ = ("_layer", "_pending", "_replaced", "_scope", "_send", "_started", "_template", "keep_for")

    def __init__(self, layer: StaleIfError, template: str, scope: Scope, send: Send) -> None:
        self._layer = layer
        self._template = template
        self._scope = scope
        self._send = send
        self._started = False
        self._replaced = False
        self._pending: _Answer | None = None
        self.keep_for = 0.0
        """Seconds for which its answer may stand in for errors; 0 unless its route asks for it."""
        scope[_SCOPE_KEY] = self

    async def run(self, receive: Receive) -> None:
        try:
            await self._layer.app(self._scope, receive, self.send)
        except Exception as error:
            problem = problems.problem_of(error)
            # Before the answer, with whose last byte the log line is written.
            self._scope[problems.SCOPE_KEY] = (error, problem)
            if self._started or not await self._stand_in(problem.status):
                raise
            if problem.status == _INTERNAL:
                _log.error("unforeseen_error", exc_info=error)

    async def send(self, message: Message) -> None:
        if self._replaced:  # what follows belongs to the error
            return
        if message["type"] == "http.response.start":
            self._started = True
            status = message["status"]
            if status in _ERRORS and await self._stand_in(status):
                return
            if self.keep_for and status == _OK:
                self._begin_to_keep(list(message.get("headers", ())))
        elif self._pending is not None:
            self._go_on_keeping(self._pending, message)
        await self._send(message)

    async def _stand_in(self, status: int) -> bool:
        """Send what was kept for this request, if there is anything, instead of an error."""
        layer = self._layer
        if status not in _ERRORS or not layer.shelf or not _may_be_kept(self._scope):
            return False
        answer = layer.shelf.find(_target(self._scope))
        now = layer.clock()
        if answer is None or not answer.stands_in_for(self._scope, now):
            return False
        self._started = self._replaced = True
        layer.note(self._template)
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
        if _may_be_kept(self._scope) and _allows_keeping(headers):
            now = self._layer.clock()
            accept = _header(self._scope, b"accept") if _listed(headers, b"vary") else None
            self._pending = _Answer(headers, b"", accept, made_at=now, good_until=now + self.keep_for)

    def _go_on_keeping(self, answer: _Answer, message: Message) -> None:
        answer.body += message.get("body", b"")
        if message["type"] != "http.response.body" or answer.size > LARGEST_ANSWER:
            self._pending = None
        elif not message.get("more_body", False):
            self._pending = None
            self._layer.shelf.put(_target(self._scope), answer)


@dataclass(slots=True)
class _Answer:
    """Times are those of the layer's clock."""

    headers: Headers
    body: bytes
    accept: bytes | None
    """The `Accept` it was made for; None if it is the same for all."""
    made_at: float
    good_until: float

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)

    def stands_in_for(self, scope: Scope, now: float) -> bool:
        return now <= self.good_until and self.accept in {None, _header(scope, b"accept")}


class _Shelf:
    """Answers by target, bounded in number and bytes; the one made first goes first."""

    def __init__(self, most_answers: int, most_bytes: int) -> None:
        self._most_answers = most_answers
        self._most_bytes = most_bytes
        self._answers: OrderedDict[Target, _Answer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, target: Target) -> _Answer | None:
        return self._answers.get(target)

    def put(self, target: Target, answer: _Answer) -> None:
        self.remove(target)
        self._answers[target] = answer
        self._bytes += _size(target, answer)
        while self._bytes > self._most_bytes or len(self._answers) > self._most_answers:
            self.remove(next(iter(self._answers)))

    def remove(self, target: Target) -> None:
        answer = self._answers.pop(target, None)
        if answer is not None:
            self._bytes -= _size(target, answer)


def _size(target: Target, answer: _Answer) -> int:
    return sum(map(len, target)) + answer.size


def _target(scope: Scope) -> Target:
    return _header(scope, b"host"), scope["path"], scope["query_string"]


def _header(scope: Scope, wanted: bytes) -> bytes:
    return b", ".join(value for name, value in scope["headers"] if name == wanted)


def _may_be_kept(scope: Scope) -> bool:
    return _EXCLUDING.isdisjoint(name for name, _ in scope["headers"])


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
