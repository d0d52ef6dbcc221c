"""What is measured, and with how many."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench.http import work
from bench.http.trial import Contestant, serving
from bench.overload.generator import parse
from bench.processes import private_memory, processor_seconds
from bench.scale.pool import Measured, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifeguard.development.embedded import EmbeddedServer

    from bench.http.trial import Stand

WAITERS, CONNECTIONS, LANES = "waiters", "connections", "lanes"
IDLE = "idle HTTP connections"
NUMBERS = {
    WAITERS: (1, 10, 100, 1000, 10_000),
    CONNECTIONS: (5, 20, 100, 500),
    LANES: (1, 5, 20, 50, 200),
    IDLE: (1, 10, 100, 1000, 10_000),
}
ASKING = 16
"""HTTP connections that ask beside the idle ones."""
FILES_BESIDE = 0.7
"""Of the files that a process may open, those that idle connections may take: the service keeps a quarter."""
MAX_CONNECTIONS = {"max_connections": str(NUMBERS[CONNECTIONS][-1] + 50)}
"""Of the server: the largest pool, and what looks at it."""
WITHOUT_BOUND = Contestant("Lifeguard", program="bench.scale.service")


@dataclass(frozen=True, slots=True)
class Point:
    """So many of something. Costs are microseconds, memory is bytes."""

    what: str
    number: int
    cost: float
    """Processor time of the process for an operation: a borrow with `SELECT 1`, or a GET."""
    rate: float
    """Operations a second."""
    memory: float
    """Private memory of the process, for each of them."""
    idle_cores: float | None = None
    """Processor time that the process spends while nobody asks; of HTTP connections alone."""
    backends: float | None = None
    """Private memory of the server, for each connection."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of each measurement, and how often each is repeated."""

    rounds: int
    measured: float
    idle: float
    most: int
    """Of anything: what is larger is left out."""


def numbers(what: str, lengths: Lengths) -> list[int]:
    """How many there are, one number after the other."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(lengths.most, int(files * FILES_BESIDE)) if what == IDLE else lengths.most
    return [number for number in NUMBERS[what] if number <= most]


def of_the_pool(what: str, lengths: Lengths, postgres: EmbeddedServer, core: int | None) -> Iterator[Point]:
    """One process for each number; it has a core to itself where there are several."""
    for number in numbers(what, lengths):
        plan = Plan(what, number, postgres.dsn(unix=True), postgres.pid or 0, lengths.measured)
        done = subprocess.run(
            [sys.executable, "-m", "bench.scale.pool"],
            input=json.dumps(asdict(plan)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            preexec_fn=None if core is None else partial(os.sched_setaffinity, 0, {core}),
        )
        measured = Measured(**json.loads(done.stdout))
        yield Point(
            what=what,
            number=number,
            cost=measured.processor / measured.operations * 1e6,
            rate=measured.operations / measured.seconds,
            memory=measured.memory / number,
            backends=measured.backends / number if what == CONNECTIONS else None,
        )


def of_http(lengths: Lengths, stand: Stand) -> Iterator[Point]:
    """One process of the service; the connections to it become more and more."""
    with ExitStack() as stack:
        service = stack.enter_context(serving(WITHOUT_BOUND, stand))
        # What it keeps of its first requests is not the idle connections'.
        finding = work.finding(stand.first)
        service.load(finding, ASKING, 0, lengths.measured)
        before = private_memory(service.pid)
        idle: list[socket.socket] = []
        for number in numbers(IDLE, lengths):
            idle += [stack.enter_context(_idle(service.port)) for _ in range(number - len(idle))]
            memory = private_memory(service.pid) - before
            spent = processor_seconds(service.pid)
            time.sleep(lengths.idle)
            cores = (processor_seconds(service.pid) - spent) / lengths.idle
            load = service.load(finding, ASKING, 0.1, lengths.measured)
            if not all(map(_is_open, idle)):
                print(f"{number} {IDLE}: some were closed, on a machine this busy", file=sys.stderr)
                return
            yield Point(IDLE, number, load.cost, load.rate, memory / number, idle_cores=cores)


def _idle(port: int) -> socket.socket:
    """A connection that has had an answer, and asks no more."""
    made = socket.create_connection(("127.0.0.1", port))
    made.sendall(work.request("GET", "/healthz").encode())
    received = b""
    while not parse(received)[1]:
        received += made.recv(1 << 16)
    return made


def _is_open(connection: socket.socket) -> bool:
    """The service closes what has been idle for 75 s."""
    try:
        return bool(connection.recv(1, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
