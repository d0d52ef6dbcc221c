"""Wrappers around the app for requests that uvicorn does not answer as RFC 9110 and 9112 say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def with_body(
    cycle: RequestResponseCycle, app: ASGI3Application, on_taken: Callable[[], None]
) -> ASGI3Application:
    """For a request with a body: `on_taken` is called when the app has taken some of it.

    A client that has waited in vain for 100 Continue may send its body or not. That body could not be told
    from the next request, so the connection ends.
    """

    async def run(scope: Any, receive: Any, send: Any) -> None:  # ASGI's
        async def taking() -> Any:
            message = await receive()
            on_taken()
            return message

        async def closing(message: Any) -> None:
            if cycle.waiting_for_100_continue:
                cycle.keep_alive = False
            await send(message)

        await app(scope, taking, closing)

    return run


def without_chunks(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """For HTTP/1.0, which knows no chunks: an answer of unknown length ends with its connection."""

    async def run(scope: Any, receive: Any, send: Any) -> None:  # ASGI's
        is_endless = False

        async def unchunked(message: Any) -> None:
            nonlocal is_endless
            if message["type"] == "http.response.start":
                is_endless = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
                if is_endless:
                    cycle.chunked_encoding = False
            elif is_endless:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, unchunked)

    return run
