"""What a plan has heard of a request's body, for FastAPI to hear again."""

from __future__ import annotations

from starlette.types import Message, Receive

from lifeguard.web.strict_json import LARGE


class Heard:
    """An ASGI `receive` that gives the messages again that were heard by it, then those that follow."""

    __slots__ = ("_error", "_heard", "_receive")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._heard: list[Message] = []
        self._error: Exception | None = None

    async def body(self) -> bytes | None:
        """The whole body; None for one that FastAPI is to read: it is large, or does not come to its end."""
        chunks = []
        size = 0
        while True:
            try:
                message = await self._receive()
            except Exception as error:  # noqa: BLE001 - FastAPI is told of it
                self._error = error
                return None
            self._heard.append(message)
            if message["type"] != "http.request":
                return None
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > LARGE:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunk if len(chunks) == 1 else b"".join(chunks)

    def forget(self) -> None:
        """Have it no longer: the body is read, and what its reader hears next is what follows."""
        self._heard.clear()

    async def __call__(self) -> Message:
        if self._heard:
            return self._heard.pop(0)
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return await self._receive()
