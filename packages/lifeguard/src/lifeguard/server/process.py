"""The life of a process: it listens, serves with uvicorn and the service's settings, drains, ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from lifeguard.observability import output
from lifeguard.server import collector, listening
from lifeguard.server.listening import CannotListen
from lifeguard.server.protocol import Protocol
from lifeguard.settings import Settings
from lifeguard.web.app import App
from lifeguard.web.drain import Drain

# Seconds that uvicorn waits longer than the service itself, which cuts its requests off first.
_BACKSTOP = 1
# Seconds that an idle connection is kept. Longer than load balancers keep theirs (nginx and AWS 60):
# if this side closed first, it would now and then be just as a request arrives.
_KEEP_ALIVE = 75


__all__ = ("CannotListen", "CutOff", "Refused", "listen", "run", "serve", "told_to_stop", "url_of")


class Refused(Exception):
    """The service declined to start with these settings; the message is one line."""


class CutOff(Exception):
    """The drain ran out of time for some requests; the message is one line."""

    def __init__(self, requests: int, because: str) -> None:
        super().__init__(f"{because}: requests cut off: {requests}")
        self.requests = requests


def listen(settings: Settings) -> socket.socket:
    """Reserve the service's address before anything else starts. Raises CannotListen.

    Nobody is let in yet: connections are refused until the service is ready to listen.
    """
    return listening.reserve(settings.host, settings.port, "PORT")


def url_of(listener: socket.socket) -> str:
    """Where a browser finds the service."""
    return listening.url_of(*listener.getsockname()[:2])


def serve(app: FastAPI, settings: Settings) -> None:
    """Listen on `HOST` and `PORT`, serve until SIGTERM or Ctrl-C, drain, and return.

    Raises SystemExit, with a line on standard error instead of a traceback: 2 if the service declines to
    start, 1 if the address is not to be had or requests had to be cut off at the end.
    """
    output.guard(settings)
    try:
        with told_to_stop(), contextlib.closing(listen(settings)) as listener:
            run(app, settings, listener)
    except (Refused, CannotListen, CutOff) as error:
        sys.stderr.write(f"{output.shown(error)}\n")
        raise SystemExit(2 if isinstance(error, Refused) else 1) from None


@contextlib.contextmanager
def told_to_stop() -> Iterator[None]:
    """In the block, being told to stop is no failure: it ends there, also when uvicorn passes it on."""

    def leave(*_: object) -> None:
        sys.exit(0)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:  # once stopped, it is ignored
            signal.signal(signal.SIGTERM, before)


def run(
    app: FastAPI,
    settings: Settings,
    listener: socket.socket,
    *,
    beside: Callable[[], Awaitable[None]] | None = None,
    on_listening: Callable[[], None] = lambda: None,
    on_second_signal: Callable[[], None] = lambda: None,
) -> None:
    """Serve until a signal says stop, and drain. `beside` runs on the same loop meanwhile.

    A second signal ends the process at once: nothing is waited for, except `on_second_signal`.

    Raises Refused if the service declines to start, KeyboardInterrupt when a signal has stopped it, CutOff
    if requests had to be cut off then.
    From there on SIGTERM is ignored: it may still come a second time, from a supervisor.
    """
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws=asyncio.Protocol,  # there are sockets: `Protocol` knows of which class
        ws_max_size=settings.max_body_bytes,
        lifespan="on",
        log_config=None,
        access_log=False,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout) + _BACKSTOP,
    )
    collector.settle()
    server = _Server(config, on_listening, on_second_signal)
    signal.signal(signal.SIGTERM, server.note_term)
    try:
        with (
            _refusal_said_once(app),
            asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
        ):
            runner.run(_serve(server, listener, beside))
    except SystemExit as error:  # uvicorn's, whose lifespan is refused
        if isinstance(app, App) and app.refusal:
            raise Refused(app.refusal) from error
        raise
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if number := server.cut_off:
            raise CutOff(number, f"DRAIN_TIMEOUT={settings.drain_timeout:g} was too short") from None
        raise


@contextlib.contextmanager
def _refusal_said_once(app: FastAPI) -> Iterator[None]:
    """Keep uvicorn from logging why the lifespan was refused: the caller prints `Refused`, which says it."""
    log = logging.getLogger("uvicorn.error")

    def is_other_news(record: logging.LogRecord) -> bool:
        return not isinstance(app, App) or record.getMessage() != app.refusal

    log.addFilter(is_other_news)
    try:
        yield
    finally:
        log.removeFilter(is_other_news)


async def _serve(
    server: uvicorn.Server, listener: socket.socket, beside: Callable[[], Awaitable[None]] | None
) -> None:
    companion = asyncio.ensure_future(beside()) if beside else None
    try:
        await server.serve([listener])
    finally:
        if companion:
            companion.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await companion


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        on_listening: Callable[[], None],
        on_second_signal: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._on_second_signal = on_second_signal

    def note_term(self, number: int, _: FrameType | None) -> None:
        """Handle SIGTERM while uvicorn does not: end before it serves; afterwards it is ending already."""
        if not self.started:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @property
    def cut_off(self) -> int:
        """How many requests the service's drain has cut off; 0 for an app without one."""
        drain: Drain | None = self.lifespan.state.get("drain")
        return drain.cut_off if drain else 0

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._on_second_signal()
            os._exit(128 + sig)
        super().handle_exit(sig, frame)
