"""Turning requests away before they cost anything, when the database could not serve them in time.

Ten times the load is not ten times the work only if refusing is cheap. A refusal inside an endpoint has
been through routing, validation and dependencies; here it is one look at the breaker, one at the queue
and an answer prepared beforehand. `lifeguard.web.routes` says which route the router will choose, and the
route's dependencies say whether it needs the database: if it asks for a connection, a transaction or the
`Database` it is behind the gate.

It is used twice: in `lifeguard.server.protocol`, before a request has cost a task, and as a middleware, for
what the protocol leaves to it and for servers that do not use the protocol.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from math import ceil
from types import MappingProxyType
from typing import Any

import structlog
from fastapi_problem.error import Problem
from starlette.types import ASGIApp, Receive, Scope, Send

from lifeguard.database import BreakerState, Database, Guard, call_scope
from lifeguard.pool import Priority
from lifeguard.web import at_once, problems
from lifeguard.web.answer_headers import ALWAYS, UNLESS_SAID, answer_types
from lifeguard.web.client import client_of
from lifeguard.web.lanes import Lanes
from lifeguard.web.routes import WEBSOCKET, Routing, Served
from lifeguard.web.stale import may_be_stale

TURNED_AWAY = "lifeguard.turned_away"
"""In the scope of a request that the gate has refused: its route's template, and no log line of its own."""

_JUDGED = frozenset(("http", "websocket"))
_READING = frozenset(("GET", "HEAD"))
# Seconds between two log lines about refusals: one a request would be a second overload.
_SUMMARY_INTERVAL = 1.0
# Addresses in such a line, those refused most often; and how many are counted separately meanwhile.
_CLIENTS_TOLD, _MOST_CLIENTS = 10, 1000
_UNKNOWN, _OTHERS = "unknown", "others"

_log = structlog.get_logger("lifeguard.gate")


class PreparedProblem:
    """A problem, rendered but for what differs from request to request."""

    def __init__(self, problem: Problem) -> None:
        content = problem.marshal(uri=problems.TYPE_URI)
        rendered = json.dumps({**content, "request_id": ""}, separators=(",", ":"), ensure_ascii=False)
        self.name = str(problem.type)
        self.status = problem.status
        self._body = rendered.removesuffix('"}').encode()
        described = ((b"content-type", problems.MEDIA_TYPE.encode()), *ALWAYS, *UNLESS_SAID)
        self._head = b"".join(b"%b: %b\r\n" % header for header in described)

    def body(self, tag: bytes) -> bytes:
        """The body for the request `tag`: letters, digits, dots, dashes, nothing that JSON would escape."""
        return b'%b%b"}' % (self._body, tag)

    def message(self, tag: bytes, *more: bytes) -> bytes:
        """The answer as HTTP/1.1 below its status line; `more` are whole header lines."""
        return b'%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b%b"}' % (
            self._head,
            b"".join(more),
            tag,
            len(self._body) + len(tag) + 2,
            self._body,
            tag,
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is turned away. `template` is its route's."""

    template: str
    problem: PreparedProblem
    retry_after: int
    """Seconds."""


class Gate:
    """Decides which requests are turned away, and logs those of a second in one line."""

    def __init__(self, routing: Routing, database: Database, needing: Iterable[object]) -> None:
        """It is for the routes that depend on one of `needing`."""
        self.routing = routing
        self.lanes = Lanes(routing, database)
        self._database = database
        self._needing = frozenset(needing)
        self._saturated = PreparedProblem(problems.saturated(0))
        self._lane_refused = PreparedProblem(problems.lane_refused(0))
        self._unavailable = PreparedProblem(problems.unavailable(0))
        self._refused: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()
        self._on_their_way: Counter[tuple[Guard, Hashable, Priority]] = Counter()
        """How many of a lane and priority were let through on arrival, and join the queue later in this turn
        of the event loop."""

    def refusal_on_arrival(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[bytes, bytes]],
        budget: float | None,
        client: Callable[[], str | None] = lambda: None,
        *,
        query: bytes = b"",
        state: Mapping[str, Any] = MappingProxyType({}),
        priority: Priority | None = None,
    ) -> Refusal | None:
        """As `refusal_of`, for a request that will need another turn of the event loop to get to the pool.

        `priority` is what the client has said, `state` the lifespan's. None also where the refusal would not
        be the answer: an older one may take its place.

        Requests that arrive together would otherwise all count on the same idle connection.
        """
        routing = self.routing
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        scope["root_path"] = routing.root_path
        served = routing.find(scope)
        if served is None or not self._is_for(served) or (method == "GET" and may_be_stale(served)):
            return None
        reads_only = method in _READING
        guard = self._database.guard_of(reads_only=reads_only)
        if self.lanes.has_tenants(served, method) and guard.serves and guard.pool.get_idle_size():
            return None  # nobody is refused now, and its tenant is asked for once the request has begun

        def known() -> Scope:
            address = client()
            return {
                **scope,
                "raw_path": path.encode("ascii"),
                "query_string": query,
                "http_version": "1.1",
                "scheme": "http",
                "client": (address, 0) if address else None,
                "app": routing.service,
                "state": dict(state),
            }

        place = self.lanes.place(served, method, priority, known)
        lane = self._database.lane_at(guard, place.lane, reads_only=reads_only)
        refusal = self._judge(guard, served, budget, lane, place.priority, on_arrival=True)
        return self._noted(client, refusal)

    def refusal_of(
        self,
        method: str,
        served: Served | None,
        budget: float | None,
        client: Callable[[], str | None] = lambda: None,
        *,
        lane: Hashable | None = None,
        priority: Priority = "normal",
    ) -> Refusal | None:
        """Turn the request away, unless it may pass. `budget`: seconds, if its client has said how many.

        `client` gives its address, and is called only if it is turned away.
        """
        if served is None or not self._is_for(served):
            return None
        reads_only = method in _READING
        guard = self._database.guard_of(reads_only=reads_only)
        lane = self._database.lane_at(guard, lane, reads_only=reads_only)
        return self._noted(client, self._judge(guard, served, budget, lane, priority, on_arrival=False))

    def _is_for(self, served: Served) -> bool:
        return not self._needing.isdisjoint(served.asks)

    def _noted(self, client: Callable[[], str | None], refusal: Refusal | None) -> Refusal | None:
        if refusal is not None:
            address = client() or _UNKNOWN
            known = address in self._clients or len(self._clients) < _MOST_CLIENTS
            self._clients[address if known else _OTHERS] += 1
        return refusal

    def _judge(
        self,
        guard: Guard,
        served: Served,
        budget: float | None,
        lane: Hashable | None,
        priority: Priority,
        *,
        on_arrival: bool,
    ) -> Refusal | None:
        template = served.template
        if guard.breaker.state is not BreakerState.CLOSED:
            return self._refuse(template, self._unavailable, guard.breaker.retry_after())
        if not guard.may_shed(lane):
            return None
        same = (guard, lane, priority)
        pool = guard.pool
        shed_for = pool.try_shed(budget, ahead=self._on_their_way[same], lane=lane, priority=priority)
        if shed_for is not None:
            problem = self._lane_refused if pool.refuses_lane(lane) else self._saturated
            return self._refuse(template, problem, shed_for)
        if on_arrival:
            if not self._on_their_way:
                asyncio.get_running_loop().call_soon(self._on_their_way.clear)
            self._on_their_way[same] += 1
        return None

    def _refuse(self, template: str, problem: PreparedProblem, retry_after: float) -> Refusal:
        if not self._refused:
            asyncio.get_running_loop().call_later(_SUMMARY_INTERVAL, self._summarise, context=Context())
        self._refused[problem.name] += 1
        return Refusal(template, problem, max(1, ceil(retry_after)))

    def _summarise(self) -> None:
        told = {name.replace("-", "_"): number for name, number in self._refused.items()}
        clients = dict(self._clients.most_common(_CLIENTS_TOLD))
        _log.warning("requests_turned_away", seconds=_SUMMARY_INTERVAL, **told, clients=clients)
        self._refused.clear()
        self._clients.clear()


class GateMiddleware:
    """The gate between the request's own middleware and the router."""

    def __init__(self, app: ASGIApp, *, gate: Gate) -> None:
        self.app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self.refusal_of(scope) if scope["type"] in _JUDGED else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await self.refuse(refusal, scope, send)

    async def refuse(self, refusal: Refusal, scope: Scope, send: Send) -> None:
        """Answer a request, or a handshake, that is turned away."""
        scope[TURNED_AWAY] = refusal.template
        call = call_scope.get()
        body = refusal.problem.body(call.tag.encode("ascii") if call else b"")
        headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"retry-after", b"%d" % refusal.retry_after),
        ]
        if scope["type"] == "http":
            await at_once.answer(send, refusal.problem.status, headers, body)
            return
        start, rest = answer_types(scope)
        await send({"type": start, "status": refusal.problem.status, "headers": headers})
        await send({"type": rest, "body": body})

    def refusal_of(self, scope: Scope) -> Refusal | None:
        """Turn the request of this scope away, unless it may pass."""
        call = call_scope.get()
        deadline = call.deadline if call else None
        budget = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
        served = self._gate.routing.choice(scope).served
        method = scope.get("method", WEBSOCKET)
        lane, priority = (call.lane, call.priority) if call else (None, None)
        return self._gate.refusal_of(
            method, served, budget, partial(client_of, scope), lane=lane, priority=priority or "normal"
        )
