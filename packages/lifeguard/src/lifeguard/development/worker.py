"""A process that serves while its supervisor lives, and the supervisor's end of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Protocol

GRACE = 4.0
"""Seconds that a process has to end, of which 2.5 are its requests'; then it is killed."""

ENDED_BY_SIGNAL = 128  # and its number: the exit code as a shell has it
LOADED, LISTENING = "loaded", "listening"


class Serve(Protocol):
    """Puts the service together and serves; runs in the worker. It can be pickled."""

    def __call__(
        self,
        listener: socket.socket,
        *,
        on_loaded: Callable[[], None],
        on_listening: Callable[[], None],
        announces: bool,
    ) -> None: ...


class Worker:
    """What the supervisor knows of a process. It starts at once, and waits for `go()` twice: before it looks
    for the database, and, once it has said LOADED, before it serves."""

    def __init__(self, context: BaseContext, serve: Serve, listener: socket.socket) -> None:
        self._line, other_end = context.Pipe()
        self._is_forked = context.get_start_method() == "fork"
        ours = self._line if self._is_forked else None
        # BaseContext does not say that it has one.
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=_work, args=(serve, listener, other_end, ours), name="service"
        )
        self.process.start()
        other_end.close()
        self.begun_at = time.monotonic()

    def go(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._line.send(True)

    def tell(self, hear: Callable[[Worker, str | None], None]) -> None:
        """Have the running loop call `hear` with what the process says, and with None when it has ended."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                said: str | None = self._line.recv()
            except (EOFError, OSError):
                loop.remove_reader(self._line.fileno())
                self._line.close()
                self.process.join(GRACE)
                said = None
            hear(self, said)

        loop.add_reader(self._line.fileno(), read)

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        if self.process.is_alive():
            self.process.kill()

    def abandon(self) -> None:
        """Let go of it outside of the loop: it ends by itself, or is killed."""
        with contextlib.suppress(OSError):
            self._line.close()
        self.process.join(GRACE)
        self.kill()
        self.process.join()

    @property
    def exit_code(self) -> int:
        """As a shell has it: 128 and more for a signal."""
        code = self.process.exitcode or 0
        return code if code >= 0 else ENDED_BY_SIGNAL - code


def _work(serve: Serve, listener: socket.socket, line: Connection, supervisors: Connection | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if supervisors is not None:
        supervisors.close()  # or the end of the supervisor would not be seen
    with contextlib.suppress(OSError):
        sys.stdin = os.fdopen(0, closefd=False)  # multiprocessing has put /dev/null there; for breakpoint()
    try:
        line.recv()
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def loaded() -> None:
            line.send(LOADED)
            line.recv()
            threading.Thread(target=_end_with_supervisor, args=(line,), daemon=True).start()

        is_first = supervisors is not None
        serve(listener, on_loaded=loaded, on_listening=lambda: line.send(LISTENING), announces=is_first)
    except (EOFError, ConnectionError, KeyboardInterrupt):  # the supervisor has gone
        return


def _end_with_supervisor(line: Connection) -> None:
    """The last thing that comes over the line is its end."""
    with contextlib.suppress(EOFError, OSError):
        line.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
