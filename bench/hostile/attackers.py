"""64 connections that mean harm, in a process of its own.

Each attack is bytes made beforehand, written by a raw protocol on uvloop, so that an attack costs its
sender next to nothing. A connection that is closed is opened again.

Takes a plan as JSON for its argument, writes as JSON on stdout what was sent and heard.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import uvloop
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = b"Host: bench\r\n"
READ = b"GET /work HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /work HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
AT_ONCE = 200
"""Requests in one write of a pipeline."""
AGAIN = 0.02
"""Seconds until a connection that was closed is opened again."""
UNREAD = 5.0
"""Seconds after which a connection without answers is given up, and made anew."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`kinds`: names of attacks; the connections are divided among them."""

    port: int
    seconds: float
    connections: int
    kinds: Sequence[str]


@dataclass(slots=True)
class Heard:
    """By kind of attack."""

    connections: dict[str, int]
    megabytes_sent: dict[str, float]
    statuses: dict[str, dict[str, int]]
    processor: float
    """Seconds of this process."""


def bomb() -> bytes:
    """A body of 60 KB, every member of which validation has a word to say about."""
    members = ",".join(f'"k{number}":1' for number in range(6000))
    body = b"{%b}" % members.encode()
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def wide_bomb() -> bytes:
    """As many members, spread over values: what is counted only when it has been read."""
    body = b'{"item":[%b]}' % b",".join([b'{"a":"\\u00e9"}'] * 2000)
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Attack(asyncio.Protocol):
    """One connection: says `first`, and `more` at each occasion."""

    first: ClassVar[bytes] = b""
    more: ClassVar[bytes] = b""
    every: ClassVar[float | None] = None
    """Seconds between two pieces of `more`; None: when an answer has come."""
    reads: ClassVar[bool] = True

    def __init__(self, heard: Heard, ended: asyncio.Event) -> None:
        self._heard = heard
        self._ended = ended
        self._kind = type(self).__name__
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = False
        self._transport: asyncio.Transport

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._heard.connections[self._kind] += 1
        if not self.reads:
            self._transport.pause_reading()
        self.say(self.first)
        self.go_on()

    def go_on(self) -> None:
        if self.every is not None:
            self._timer = asyncio.get_running_loop().call_later(self.every, self._again)

    def _again(self) -> None:
        if not self._blocked:
            self.say(self.more)
        self.go_on()

    def say(self, piece: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(piece)
            self._heard.megabytes_sent[self._kind] += len(piece) / 1e6

    @override
    def data_received(self, data: bytes) -> None:
        statuses = self._heard.statuses[self._kind]
        for piece in data.split(b"HTTP/1.1 ")[1:]:
            status = piece[:3].decode("ascii", "replace")
            statuses[status] = statuses.get(status, 0) + 1
        if self.every is None:
            self.say(self.more)

    @override
    def pause_writing(self) -> None:
        self._blocked = True

    @override
    def resume_writing(self) -> None:
        self._blocked = False

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ended.set()

    def hang_up(self) -> None:
        self._transport.abort()


class Bombs(Attack):
    """Bodies that are all faults, one after the other."""

    first = more = bomb()


class WideBombs(Attack):
    """Bodies of many small objects where one text is expected."""

    first = more = wide_bomb()


class Pipelines(Attack):
    """Requests without end, 200 in a write, and their answers are read."""

    first = more = READ * AT_ONCE
    every = 0.01


class Unread(Attack):
    """The same, and nobody reads an answer."""

    first = more = READ * AT_ONCE
    every = 0.01
    reads = False


class SlowBodies(Attack):
    """A byte of a body ten times a second."""

    first = POST + b"Content-Length: 60000\r\n\r\n"
    more = b"x"
    every = 0.1


class Trailers(Attack):
    """A body that has ended, and trailers that do not."""

    first = POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    more = b"A: b\r\n"
    every = 0.01


class BigHeads(Attack):
    """Heads as large as they may be."""

    first = more = (
        b"GET /work HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 240) for n in range(120))
    ) + b"\r\n"


class HugeHeads(Attack):
    """Heads that are larger than that: each is a new connection."""

    first = b"GET /work HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 120_000 + b"\r\n\r\n"


class Hasty(Attack):
    """Requests with next to no time."""

    first = more = b"GET /work HTTP/1.1\r\n" + HOST + b"X-Request-Timeout: 0.01\r\n\r\n"


class Malformed(Attack):
    """What is no request, on one connection after the other."""

    first = b"GET /work HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"


KINDS: Sequence[type[Attack]] = (
    *(Bombs, WideBombs, Pipelines, Unread, SlowBodies, Trailers, BigHeads, HugeHeads, Hasty, Malformed),
)


async def attack(kind: type[Attack], plan: Plan, heard: Heard) -> None:
    """Keep one connection at it."""
    loop = asyncio.get_running_loop()
    while True:
        ended = asyncio.Event()
        try:
            _, connection = await loop.create_connection(
                lambda ended=ended: kind(heard, ended),  # type: ignore[misc]
                "127.0.0.1",
                plan.port,
            )
            try:
                async with asyncio.timeout(None if kind.reads else UNREAD):
                    await ended.wait()
            finally:
                connection.hang_up()
        except (OSError, TimeoutError):
            pass
        await asyncio.sleep(AGAIN)


async def main() -> None:
    gc.disable()  # as in the users' process
    plan = Plan(**json.loads(sys.argv[1]))
    kinds = [kind for kind in KINDS if kind.__name__ in plan.kinds]
    names = [kind.__name__ for kind in kinds]
    heard = Heard(dict.fromkeys(names, 0), dict.fromkeys(names, 0.0), {name: {} for name in names}, 0.0)
    tasks = [
        asyncio.create_task(attack(kinds[number % len(kinds)], plan, heard))
        for number in range(plan.connections)
    ]
    await asyncio.wait(tasks, timeout=plan.seconds)
    for task in tasks:
        task.cancel()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    heard.processor = usage.ru_utime + usage.ru_stime
    json.dump({name: getattr(heard, name) for name in Heard.__slots__}, sys.stdout)


if __name__ == "__main__":
    os.nice(
        19
    )  # users, service and database are not to wait for who attacks: elsewhere they are other machines
    uvloop.run(main())
