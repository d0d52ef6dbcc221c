"""The clients: a closed loop in a process of its own.

Each of the connections asks again as soon as it has its answer: a service has as many requests under way as
there are connections, and does as much as it can. Plain sockets and epoll, without an event loop: about a
tenth of what the services spend on a request, and what both have spent is in the answers.

Reads a plan as JSON on stdin, writes what came of it as JSON on stdout.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import cycle
from time import monotonic

from bench.overload.generator import parse
from bench.processes import children, processor_seconds

ADDRESS = "127.0.0.1"
LONGEST_SILENCE = 10.0
"""Seconds without any answer after which the clients give up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`requests` are sent one after the other, over all connections, from the first again after the last.

    `settle` and `seconds`, or as many requests as `most`, whichever is reached first. `service` and
    `postmaster` are processes whose time is accounted.
    """

    port: int
    connections: int
    requests: list[str]
    settle: float
    seconds: float
    service: int
    postmaster: int
    most: int = sys.maxsize


@dataclass(slots=True)
class Load:
    """What came of the requests after the clients had settled. Seconds; the last three of processor time."""

    answered: int
    seconds: float
    statuses: dict[str, int]
    broken: int
    """Connections that ended with a request under way."""
    service: float
    database: float
    clients: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answered / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of processor time in the service's process, for an answer."""
        return self.service / self.answered * 1e6

    def other_than(self, *expected: int) -> int:
        """Answers with another status, and those that did not come."""
        return self.answered - sum(self.statuses.get(str(status), 0) for status in expected) + self.broken


class Clients:
    """All connections, and one loop over those that have something to read."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._received: dict[int, bytes] = {}
        self._next = cycle([request.encode() for request in plan.requests])
        self._statuses: Counter[int] = Counter()
        self._answered = 0
        self._broken = 0

    def run(self) -> Load:
        plan = self._plan
        for _ in range(plan.connections):
            self._connect()
        self._until(monotonic() + plan.settle, sys.maxsize)
        self._statuses.clear()
        self._answered = self._broken = 0
        before, began = self._processor_time(), monotonic()
        self._until(began + plan.seconds, plan.most)
        seconds, after = monotonic() - began, self._processor_time()
        spent = {name: after[name] - before[name] for name in after}
        statuses = {str(status): number for status, number in sorted(self._statuses.items())}
        return Load(self._answered, seconds, statuses, self._broken, **spent)

    def _until(self, end: float, most: int) -> None:
        heard = monotonic()
        while (now := monotonic()) < end and self._answered < most:
            ready = self._poll.poll(0.1)
            for number, _ in ready:
                self._read(number)
            if ready:
                heard = now
            elif now - heard > LONGEST_SILENCE:
                return

    def _connect(self) -> None:
        made = socket.create_connection((ADDRESS, self._plan.port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        self._sockets[made.fileno()] = made
        self._received[made.fileno()] = b""
        self._poll.register(made, select.EPOLLIN)
        made.send(next(self._next))

    def _read(self, number: int) -> None:
        try:
            read = self._sockets[number].recv(1 << 16)
        except OSError:
            read = b""
        if not read:
            self._broken += 1
            self._connect_anew(number)
            return
        received = self._received[number] + read
        status, complete = parse(received)
        if not complete:
            self._received[number] = received
            return
        self._answered += 1
        self._statuses[status] += 1
        self._received[number] = b""
        if status >= 400 and b"connection: close" in received.lower():
            self._connect_anew(number)
        else:
            self._sockets[number].send(next(self._next))

    def _connect_anew(self, number: int) -> None:
        self._poll.unregister(number)
        del self._received[number]
        self._sockets.pop(number).close()
        self._connect()

    def _processor_time(self) -> dict[str, float]:
        return {
            "service": processor_seconds(self._plan.service),
            "database": sum(map(processor_seconds, children(self._plan.postmaster))),
            "clients": processor_seconds(os.getpid()),
        }


def main() -> None:
    gc.disable()  # a short life, in which nothing is made that only a collection would find
    json.dump(asdict(Clients(Plan(**json.load(sys.stdin))).run()), sys.stdout)


if __name__ == "__main__":
    main()
