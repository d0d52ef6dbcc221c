"""Answering in one call, where nobody on the way has to see the two messages of an answer.

An ASGI answer is a message with the head, and one or more with the body. Each passes every layer between the
endpoint and the socket. Where the whole answer is known, and no middleware has put a `send` of its own in
between, one call does:

    await at_once.answer(send, 200, [(b"content-length", b"2"), (b"content-type", b"text/plain")], b"hi")

`send` may be any; with one that is somebody's own, this sends the two messages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from starlette.types import Message, Send

Headers = Sequence[tuple[bytes, bytes]]


class TakesWhole:
    """Has a `send` of ASGI's, and takes a whole answer as well."""

    __slots__ = ()

    def send(self, message: Message) -> Awaitable[None]:
        """As in ASGI."""
        raise NotImplementedError

    def answer(self, status: int, headers: Headers, body: bytes) -> Awaitable[None]:
        """Do what the two messages of this answer would. The names of `headers` are in small letters."""
        raise NotImplementedError


class WritesWhole:
    """The server's end: has a `send` of ASGI's, and writes a whole answer in one go."""

    __slots__ = ()

    def write_whole(self, status: int, lines: bytes, body: bytes) -> bool:
        """Write the answer, with `lines` in its head: the length of `body` is among them, and nothing about
        the connection. False: it has to come as messages, and nothing is written."""
        raise NotImplementedError


T = TypeVar("T", TakesWhole, WritesWhole)


def owner_of(send: Send, kind: type[T]) -> T | None:
    """Give whose `send` this is, if it is of that kind. None: somebody wants to see the messages."""
    owner = getattr(send, "__self__", None)
    return owner if isinstance(owner, kind) and send.__name__ == "send" else None


async def answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send the answer, in one call if that comes to the same."""
    owner = owner_of(send, TakesWhole)
    if owner is not None:
        await owner.answer(status, headers, body)
        return
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
