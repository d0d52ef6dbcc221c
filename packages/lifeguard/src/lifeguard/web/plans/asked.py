"""A request that a plan is about to answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from lifeguard.web.plans.replay import Heard


class Asked:
    """The parts of it, read when somebody needs them."""

    __slots__ = (
        "_query",
        "_request",
        "body",
        "document",
        "has_started",
        "path_params",
        "receive",
        "scope",
        "send",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive: Receive = receive
        """Where the body was read: it comes again, until the plan is to answer."""
        self.send = send
        self.path_params: dict[str, Any] = {}
        self.has_started = False
        """Whether its answer has."""
        self.body: bytes | None = None
        """None unless it was read."""
        self.document: Any = None
        """What its JSON stands for."""
        self._query: dict[str, str] | None = None
        self._request: Request | None = None

    async def note_and_send(self, message: Message) -> None:
        """`send` for an answer that is a `Response`."""
        if message["type"] == "http.response.start":
            self.has_started = True
        await self.send(message)

    async def read_body(self) -> bytes | None:
        """The whole body; None for one that FastAPI is to read."""
        self.receive = heard = Heard(self.receive)
        self.body = await heard.body()
        return self.body

    def take_body(self) -> None:
        """Have it read for good, as FastAPI would have: what comes next says whether the client is there."""
        if isinstance(self.receive, Heard):
            self.receive.forget()

    @property
    def query(self) -> dict[str, str]:
        """As `Request.query_params`: of several values the last."""
        if self._query is None:
            text: bytes = self.scope["query_string"]
            self._query = dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)) if text else {}
        return self._query

    def header(self, name: bytes) -> str | None:
        """As `Request.headers`: of several values the first."""
        for known, value in self.scope["headers"]:
            if known == name:
                said: str = value.decode("latin-1")
                return said
        return None

    @property
    def request(self) -> Request:
        """What FastAPI would give to the endpoint: one for all, which has read what was read."""
        if self._request is None:
            self._request = request = Request(self.scope, self.receive, self.send)
            if self.body is not None:
                request._body = self.body  # noqa: SLF001 - as its own body() and json() note it
                request._json = self.document  # noqa: SLF001
                request._stream_consumed = True  # noqa: SLF001
        return self._request
