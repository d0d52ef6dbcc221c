"""A PostgreSQL of numbers: it takes sessions up to a limit, needs time for each login, and goes away."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.fleet.virtual_time import Clock

# Seconds. There and back within a data center; what a login (fork, TLS, SCRAM) takes of one of the server's
# cores, of which it has as many as a large machine; how long a session needs to end after its client's
# goodbye.
ROUND_TRIP = 0.001
LOGIN = 0.004
CORES = 32
GOODBYE = 0.002


class Session:
    """One connection, as much of asyncpg's as a pool looks at."""

    def __init__(self, server: Server, pid: int, process: str) -> None:
        self._server = server
        self.pid = pid
        self.process = process
        self.began = server.clock()
        self.claim: int | None = None
        """Of a seat."""
        self._closed = False
        self._listeners: list[Callable[[object], None]] = []

    def get_server_pid(self) -> int:
        return self.pid

    def is_closed(self) -> bool:
        return self._closed

    def add_termination_listener(self, listener: Callable[[object], None]) -> None:
        self._listeners.append(listener)

    def terminate(self) -> None:
        self.lose()
        self._server.end(self)

    async def close(self, *, timeout: float = 0) -> None:  # noqa: ARG002 - as asyncpg's
        await asyncio.sleep(GOODBYE)
        self.terminate()

    def lose(self) -> None:
        """It has ended; who uses it is told."""
        if not self._closed:
            self._closed = True
            for listener in self._listeners:
                listener(self)


class Server:
    """Times are seconds of the simulation."""

    def __init__(self, clock: Clock, max_connections: int, reserved: int = 3) -> None:
        self.clock = clock
        self.room = max_connections - reserved
        self.sessions: dict[int, Session] = {}
        self.of_process: Counter[str] = Counter()
        """How many sessions each process has."""
        self.seats: dict[int, Session] = {}
        self.attempts: list[float] = []
        """When somebody tried to connect."""
        self.refused: list[float] = []
        """When the server had no session left (53300)."""
        self.most = 0
        """Most sessions at the same time."""
        self.up = True
        self._pids = count(1)
        self._logging_in: set[int] = set()
        self._cores = asyncio.Semaphore(CORES)

    async def connect(self, process: str) -> Session:
        """Raises what asyncpg raises."""
        self.attempts.append(self.clock())
        await asyncio.sleep(ROUND_TRIP)
        if not self.up:
            raise ConnectionRefusedError("Connection refused")
        if len(self.sessions) + len(self._logging_in) >= self.room:
            self.refused.append(self.clock())
            raise asyncpg.TooManyConnectionsError("sorry, too many clients already")
        pid = next(self._pids)
        self._logging_in.add(pid)
        self.most = max(self.most, len(self.sessions) + len(self._logging_in))
        try:
            async with self._cores:
                await asyncio.sleep(LOGIN)
            if not self.up:
                raise ConnectionResetError("Connection reset by peer")
        finally:
            self._logging_in.discard(pid)
        session = Session(self, pid, process)
        self.sessions[pid] = session
        self.of_process[process] += 1
        return session

    def end(self, session: Session) -> None:
        if self.sessions.pop(session.pid, None) is not None:
            self.of_process[session.process] -= 1
        self.seats.pop(session.pid, None)

    def take_seat(self, session: Session, claim: int) -> None:
        session.claim = claim
        self.seats[session.pid] = session

    def stop(self) -> None:
        """End all sessions, and take no more."""
        self.up = False
        for session in tuple(self.sessions.values()):
            self.end(session)
            session.lose()

    def start(self) -> None:
        self.up = True

    def kill(self, process: str) -> None:
        """End the sessions of a process that is gone."""
        for session in tuple(self.sessions.values()):
            if session.process == process:
                self.end(session)
