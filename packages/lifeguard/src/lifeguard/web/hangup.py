"""Ending the work of a request whose client has hung up.

A server does not do this by itself: the handler goes on, holds its connection, and computes an answer
that is never read. Under load most requests are of that kind, because clients give up waiting. An open
transaction is rolled back; a COMMIT that has been sent is waited for.

What runs after the end of the answer is not ended: background tasks, dependencies that finish after the
answer. A client that has its answer hangs up in the normal course of things.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds until it is checked whether the client is still there. Most requests are over by then, and pay for
# a timer only.
_PATIENCE = 0.5


class HangupMiddleware:
    """Next to the router: what is turned away earlier needs none of this."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        awaits_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )
        line = Line(receive, send, is_complete=not awaits_body)
        with line:
            await self.app(scope, line.receive, line.send)


class Line:
    """The client's end of a request: gives its messages to the app, and listens when the app does not."""

    def __init__(self, receive: Receive, send: Send, *, is_complete: bool) -> None:
        """`is_complete`: whether there is no body to come."""
        self._receive = receive
        self._send = send
        self._ahead: Message | None = None
        self._complete = is_complete
        self._listener: asyncio.Task[None] | None = None
        work = asyncio.current_task()
        assert work is not None
        self.work = work
        self.hung_up = False
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            _PATIENCE, self._lose_patience
        )
        self._patient = True

    def __enter__(self) -> Line:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        """Take the end of work that was cancelled because its client has hung up for no failure."""
        is_due_to_it = self.hung_up and isinstance(error, asyncio.CancelledError)
        if is_due_to_it:
            self.work.uncancel()
        self.close()
        return is_due_to_it

    async def receive(self) -> Message:
        """The app's `receive`: also what the listener has heard in the meantime."""
        if self._ahead is not None:
            message, self._ahead = self._ahead, None
            return message
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._complete = True
            self._listen()
        return message

    async def send(self, message: Message) -> None:
        """The app's `send`. Closes before the last message: the server takes its end for a hanging up."""
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.close()
        await self._send(message)

    def close(self) -> None:
        """Listen no more. Leaves no circle of references, over which the collector would pause under load."""
        self._patient = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    def _lose_patience(self) -> None:
        self._timer = None
        self._patient = False
        self._listen()

    def _listen(self) -> None:
        """Once the body is complete and patience lost: nothing but the end can come any more."""
        if self._complete and not self._patient and self._listener is None:
            self._listener = asyncio.get_running_loop().create_task(self._wait(), name="hangup")

    async def _wait(self) -> None:
        message = await self._receive()
        while message["type"] != "http.disconnect":
            self._ahead = message
            message = await self._receive()
        self.hung_up = True
        self.work.cancel("the client has hung up")
