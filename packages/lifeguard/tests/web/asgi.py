"""Requests to an app without a server between, so that what it says can be compared byte for byte."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

TAG = b"one-and-the-same"
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    """Path and query, as they are sent."""
    headers: Headers = ()
    body: tuple[bytes, ...] = ()
    """In its parts. None: it has no body."""


@dataclass(frozen=True)
class Answered:
    """`headers` are sorted: nothing depends on their order."""

    status: int
    headers: Headers
    body: bytes
    planned: bool
    """Whether FastAPI has not seen it."""

    @property
    def said(self) -> tuple[int, Headers, bytes]:
        return self.status, self.headers, self.body


async def ask(app: Any, asked: Asked, state: Mapping[str, Any]) -> Answered:
    """Ask `app`, whose lifespan has given `state`. Raises what it raises beyond its answer."""
    path, _, query = asked.target.partition("?")
    headers = [(b"host", b"test"), (b"x-request-id", TAG), *asked.headers]
    if asked.body and not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % sum(map(len, asked.body))))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "state": dict(state),
    }
    sent: list[Any] = []
    parts = _parts(asked.body)

    async def receive() -> Any:
        if (part := next(parts, None)) is None:
            await asyncio.Event().wait()  # the client stays
        return part

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    planned = "fastapi_middleware_astack" not in scope and "route" in scope
    return Answered(sent[0]["status"], tuple(sorted(sent[0]["headers"])), body, planned)


def _parts(body: tuple[bytes, ...]) -> Iterator[Any]:
    yield from (
        {"type": "http.request", "body": part, "more_body": at < len(body)}
        for at, part in enumerate(body or (b"",), 1)
    )
