"""The clients: an open loop in a process of its own.

Requests leave at instants drawn beforehand (Poisson arrivals), whether or not earlier ones were
answered, because that is what a crowd does. Latency counts from that instant, so a generator or a
service that falls behind cannot hide it. A client gives up after the deadline and hangs up, which
is all that HTTP/1.1 lets it do; the next one takes an idle kept-alive connection or opens a new
one.

Reads a plan as JSON on stdin, writes answers as JSON on stdout. Raw protocols on uvloop: about a
tenth of what the services spend on a request, and the processor time of both is in the answers.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import sys
from collections import deque
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, cast

import uvloop
from typing_extensions import override

from bench.processes import children, processor_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = 0.001
"""Seconds between looks at the clock; an arrival leaves within two of them."""
GAVE_UP = 0
NO_ANSWER = -1
"""In place of a status: the client's deadline passed; the connection failed."""


@dataclass(frozen=True, slots=True)
class Phase:
    """`rate` requests a second for `seconds`. `shares` says how much of it each kind has; none: all alike."""

    rate: float
    seconds: float
    shares: list[float] = field(default_factory=list)


def request_to(path: str, **headers: str) -> str:
    """A GET request of that path."""
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: bench", *map(": ".join, headers.items()), "", ""])


@dataclass(frozen=True, slots=True)
class Plan:
    """`deadline` in seconds; `service` and `postmaster` are processes whose time is accounted.

    `requests` are the kinds of request, by `request_to()`.
    """

    port: int
    seed: int
    phases: list[Phase]
    deadline: float
    service: int
    postmaster: int
    requests: list[str] = field(default_factory=lambda: [request_to("/work")])


@dataclass(slots=True)
class Answers:
    """One entry a request, in the order of arrival; all in seconds from the start of the plan."""

    scheduled: list[float]
    latency: list[float]
    status: list[int]
    lateness: list[float]
    """How long after its scheduled instant each request left the generator."""
    processor: list[dict[str, float]]
    """By phase: processor seconds of `generator`, `service` and `database`."""
    began: float
    """The start of the plan on this machine's monotonic clock, which all its processes share."""
    kind: list[int] = field(default_factory=list)
    """Which of the plan's requests it was."""


class Request:
    """One arrival, until it is answered or given up."""

    __slots__ = ("head", "number", "scheduled", "wire")

    def __init__(self, number: int, scheduled: float, head: bytes) -> None:
        self.number = number
        self.scheduled = scheduled
        self.head = head
        self.wire: Wire | None = None


class Wire(asyncio.Protocol):
    """One connection: one request at a time, kept alive between them."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._transport: asyncio.Transport
        self._received = b""
        self.request: Request | None = None
        self.usable = True

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: Request) -> None:
        self.request = request
        request.wire = self
        self._transport.write(request.head)

    @override
    def data_received(self, data: bytes) -> None:
        self._received += data
        status, complete = parse(self._received)
        if not complete:
            return
        closes = b"connection: close" in self._received
        self._received = b""
        request, self.request = self.request, None
        if closes:
            self._transport.close()
        else:
            self._crowd.idle.append(self)
        if request is not None:
            self._crowd.finished(request, status)

    @override
    def connection_lost(self, _: Exception | None) -> None:
        request, self.request = self.request, None
        if request is not None:
            self._crowd.finished(request, NO_ANSWER)
        self.usable = False

    def hang_up(self) -> None:
        self.request = None
        self.usable = False
        self._transport.abort()


def parse(received: bytes) -> tuple[int, bool]:
    """Status of a response and whether it is all there. Only responses with a Content-Length."""
    head, separator, body = received.partition(b"\r\n\r\n")
    if not separator:
        return 0, False
    length = head.lower().partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
    return int(head[9:12]), len(body) >= int(length)


class Crowd:
    """Everyone who asks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._start = 0.0
        self._open: deque[Request] = deque()
        self._opening: dict[Request, asyncio.Task[None]] = {}
        self._unanswered = 0
        self.idle: list[Wire] = []
        self.answers = Answers([], [], [], [], [], began=0.0)

    async def run(self) -> Answers:
        """Play the plan, then wait until the last request is answered or given up."""
        arrivals = list(_arrivals(self._plan))
        self._start = self._loop.time() + 0.01
        self.answers.began = monotonic() + self._start - self._loop.time()
        boundaries = deque(_boundaries(self._plan.phases))
        usage = self._processor_time()
        heads = [request.encode() for request in self._plan.requests]
        for number, (scheduled, kind) in enumerate(arrivals):
            while self._now() < scheduled:
                self._give_up_overdue()
                if boundaries and self._now() >= boundaries[0]:
                    usage = self._note_processor_time(usage)
                    boundaries.popleft()
                await asyncio.sleep(TICK)
            self.answers.kind.append(kind)
            self._leave(Request(number, scheduled, heads[kind]))
        while self._unanswered:
            self._give_up_overdue()
            await asyncio.sleep(TICK)
        self._note_processor_time(usage)
        return self.answers

    def finished(self, request: Request, status: int) -> None:
        request.wire = None
        self._unanswered -= 1
        self.answers.latency[request.number] = round(self._now() - request.scheduled, 6)
        self.answers.status[request.number] = status

    def _leave(self, request: Request) -> None:
        answers = self.answers
        answers.scheduled.append(round(request.scheduled, 6))
        answers.lateness.append(round(self._now() - request.scheduled, 6))
        answers.latency.append(self._plan.deadline)
        answers.status.append(GAVE_UP)
        self._unanswered += 1
        self._open.append(request)
        while self.idle:
            wire = self.idle.pop()
            if wire.usable:
                wire.send(request)
                return
        self._opening[request] = self._loop.create_task(self._connect(request))

    async def _connect(self, request: Request) -> None:
        try:
            _, wire = await self._loop.create_connection(lambda: Wire(self), "127.0.0.1", self._plan.port)
        except OSError:
            self.finished(request, NO_ANSWER)
        else:
            wire.send(request)
        finally:
            del self._opening[request]

    def _give_up_overdue(self) -> None:
        """The deadline is the same for all, so the oldest request is the first to pass it."""
        horizon = self._now() - self._plan.deadline
        while self._open and self._open[0].scheduled <= horizon:
            request = self._open.popleft()
            opening = self._opening.get(request)
            if opening is not None:
                opening.cancel()
            elif request.wire is not None:
                request.wire.hang_up()
            else:
                continue
            request.wire = None
            self._unanswered -= 1

    def _now(self) -> float:
        return self._loop.time() - self._start

    def _note_processor_time(self, before: dict[str, float]) -> dict[str, float]:
        now = self._processor_time()
        self.answers.processor.append({name: round(now[name] - before[name], 3) for name in now})
        return now

    def _processor_time(self) -> dict[str, float]:
        backends = children(self._plan.postmaster)
        return {
            "generator": processor_seconds(os.getpid()),
            "service": processor_seconds(self._plan.service),
            "database": sum(map(processor_seconds, backends)),
        }


def _arrivals(plan: Plan) -> Iterator[tuple[float, int]]:
    """Instants and kinds. The instants are the same whatever the kinds."""
    chance, choice = random.Random(plan.seed), random.Random(plan.seed)
    kinds = range(len(plan.requests))
    begin = 0.0
    for phase in plan.phases:
        shares = phase.shares or [1.0] * len(kinds)
        instant = begin + chance.expovariate(phase.rate)
        begin += phase.seconds
        while instant < begin:
            yield instant, choice.choices(kinds, shares)[0]
            instant += chance.expovariate(phase.rate)


def _boundaries(phases: list[Phase]) -> Iterator[float]:
    """Ends of all phases but the last."""
    end = 0.0
    for phase in phases[:-1]:
        end += phase.seconds
        yield end


async def main() -> None:
    gc.disable()  # a short life with plenty of memory: pauses would only blur the clock
    plan = json.load(sys.stdin)
    phases = [Phase(**phase) for phase in plan.pop("phases")]
    answers = await Crowd(Plan(phases=phases, **plan)).run()
    json.dump(asdict(answers), sys.stdout)


if __name__ == "__main__":
    uvloop.run(main())
