"""Turning requests away before they cost anything, when the database could not serve them in time.

Ten times the load is not ten times the work only if refusing is cheap. A refusal inside an endpoint has
been through routing, validation and dependencies; here it is one look at the breaker, one at the queue
and a ready-made answer. Which routes need the database is read from their dependencies: whoever asks
for a connection, a transaction or the `Database` stands behind the gate, and nobody else.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from math import ceil

import structlog
from fastapi import FastAPI
from fastapi_problem.error import Problem
from starlette.types import ASGIApp, Receive, Scope, Send

from app.database import BreakerState, CallScope, Database, call_scope
from app.web import dependencies, problems
from app.web.routes import PathsThatAsk

TURNED_AWAY = "app.turned_away"
"""A request's scope holds this route template instead of a log line of its own."""

_NEEDS_DATABASE = frozenset(
    (
        dependencies.database,
        dependencies.read_connection,
        dependencies.connection,
        dependencies.transaction,
    )
)
_READING = frozenset(("GET", "HEAD"))
# Seconds between two log lines about refusals: one a request would be a second overload.
_SUMMARY_INTERVAL = 1.0

_log = structlog.get_logger("app.gate")


class Gate:
    """Middleware between the request's own and the router."""

    def __init__(self, app: ASGIApp, *, service: FastAPI, database: Database) -> None:
        self.app = app
        self._database = database
        self._guarded = PathsThatAsk(service, _NEEDS_DATABASE.__contains__)
        self._saturated = _Refusal(problems.saturated(0))
        self._unavailable = _Refusal(problems.unavailable(0))
        self._refused: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = self._refusal_of(scope)
            if refusal is not None:
                await refusal.send(send)
                return
        await self.app(scope, receive, send)

    def _refusal_of(self, scope: Scope) -> _Answer | None:
        template = self._guarded.template_of(scope["path"])
        if template is None:
            return None
        guard = self._database.guard_of(reads_only=scope["method"] in _READING)
        if guard.breaker.state is not BreakerState.CLOSED:
            refusal, retry_after = self._unavailable, guard.breaker.retry_after()
        else:
            call = call_scope.get()
            shed_for = guard.pool.try_shed(_budget(call))
            if shed_for is None:
                return None
            refusal, retry_after = self._saturated, shed_for
        scope[TURNED_AWAY] = template
        self._note(refusal.name)
        return refusal.answer(retry_after)

    def _note(self, name: str) -> None:
        if not self._refused:
            asyncio.get_running_loop().call_later(_SUMMARY_INTERVAL, self._summarise)
        self._refused[name] += 1

    def _summarise(self) -> None:
        _log.warning("requests_turned_away", seconds=_SUMMARY_INTERVAL, **self._refused)
        self._refused.clear()


class _Refusal:
    """A problem, rendered but for what differs from request to request."""

    def __init__(self, problem: Problem) -> None:
        self.name = str(problem.type).replace("-", "_")
        content = problem.marshal(uri=problems.TYPE_URI)
        rendered = json.dumps({**content, "request_id": ""}, separators=(",", ":"), ensure_ascii=False)
        self._before = rendered.removesuffix('"}').encode()
        self._status = problem.status

    def answer(self, retry_after: float) -> _Answer:
        call = call_scope.get()
        tag = call.tag if call else ""  # letters, digits, dots, dashes: nothing that JSON would escape
        return _Answer(self._status, self._before + tag.encode("ascii") + b'"}', max(1, ceil(retry_after)))


class _Answer:
    def __init__(self, status: int, body: bytes, retry_after: int) -> None:
        self._status = status
        self._body = body
        self._retry_after = retry_after

    async def send(self, send: Send) -> None:
        headers = [
            (b"content-length", str(len(self._body)).encode()),
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"retry-after", str(self._retry_after).encode()),
        ]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})


def _budget(call: CallScope | None) -> float | None:
    """Seconds that the client is ready to wait; None if it did not say."""
    if call is None or call.deadline is None:
        return None
    return call.deadline - asyncio.get_running_loop().time()
