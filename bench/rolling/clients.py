"""The clients: half of them keep their connection, half open one for each request.

They are strict. A request is asked once; an answer other than success, and a connection that breaks
before the whole answer is there, is a failed request. Only a kept connection that was closed while
nothing was asked on it is replaced without a word, as every HTTP client does.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

RESET = "reset"
"""In place of a status: the connection broke, or was refused, before the answer was there."""
SILENT = "no answer"
"""The same for an answer that did not come in PATIENCE."""
PATIENCE = 20.0
"""Seconds."""
READS_PER_WRITE = 3
FROM_SERVICE = b"x-request-id: "
"""In the head of each answer of the service; HAProxy's own have none."""


@dataclass(frozen=True, slots=True)
class Write:
    """A transfer that a client has asked for."""

    key: str
    body: bytes


@dataclass(slots=True)
class Log:
    """What the clients saw. Times are of `time.monotonic()`."""

    latencies: list[tuple[float, float]] = field(default_factory=list)
    """When a request was due, and how many seconds later it was answered."""
    lateness: list[float] = field(default_factory=list)
    """How many seconds after they were due requests left that nothing but this process held up."""
    failures: list[tuple[float, str]] = field(default_factory=list)
    """When, and what came instead of a success: RESET, SILENT, or the status and the service's problem."""
    acknowledged: dict[str, int] = field(default_factory=dict)
    """Idempotency key to the id of the transfer."""
    unacknowledged: list[Write] = field(default_factory=list)


class Failed(Exception):
    """No success; the message is for `Log.failures`."""


class Wire:
    """A connection to the service: one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer. Raises Failed."""
        try:
            async with asyncio.timeout(PATIENCE):
                head, body = await self._ask(request)
        except TimeoutError:
            self.close()
            raise Failed(SILENT) from None
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            raise Failed(RESET) from None
        if b"connection: close" in head:
            self.close()
        if not head.startswith((b"http/1.1 200 ", b"http/1.1 201 ")):
            problem = json.loads(body)["type"] if FROM_SERVICE in head else "from HAProxy"
            raise Failed(f"{head[9:12].decode()} {problem}")
        return body

    async def _ask(self, request: bytes) -> tuple[bytes, bytes]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0]
        return head, await reader.readexactly(int(length))

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


class Crowd:
    """Clients that ask for `rate` requests a second together (Poisson arrivals) until told to stop."""

    def __init__(self, port: int, *, clients: int, rate: float, accounts: list[int], seed: int) -> None:
        self._port = port
        self._clients = clients
        self._rate_of_one = rate / clients
        self._accounts = accounts
        self._chance = random.Random(seed)
        self._stopped = asyncio.Event()
        self.log = Log()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._clients):
                group.create_task(self._client(number, keeps=number % 2 == 0))

    def stop(self) -> None:
        self._stopped.set()

    async def _client(self, number: int, *, keeps: bool) -> None:
        wire = Wire(self._port)
        due = time.monotonic()
        asked = 0
        while not self._stopped.is_set():
            due += self._chance.expovariate(self._rate_of_one)
            wait = due - time.monotonic()
            await asyncio.sleep(wait)
            if wait > 0:
                self.log.lateness.append(time.monotonic() - due)
            asked += 1
            try:
                await self._one_request(wire, f"{number}-{asked}", keeps=keeps)
            except Failed as failure:
                self.log.failures.append((time.monotonic(), str(failure)))
            self.log.latencies.append((due, time.monotonic() - due))
            if not keeps:
                wire.close()
        wire.close()

    async def _one_request(self, wire: Wire, key: str, *, keeps: bool) -> None:
        if self._chance.randrange(READS_PER_WRITE + 1):
            account = self._chance.choice(self._accounts)
            path = self._chance.choice((f"/v1/accounts/{account}", f"/v1/accounts/{account}/entries?limit=5"))
            await wire.ask(http("GET", path, keeps=keeps))
            return
        one, other = self._chance.sample(self._accounts, 2)
        write = Write(key, transfer(one, other, self._chance.randint(1, 100)))
        try:
            booked = await wire.ask(http("POST", "/v1/transfers", write.body, key=key, keeps=keeps))
        except Failed:
            self.log.unacknowledged.append(write)
            raise
        self.log.acknowledged[key] = json.loads(booked)["id"]


def transfer(one: int, other: int, amount: int) -> bytes:
    return json.dumps({"from_account": one, "to_account": other, "amount": amount}).encode()


def http(method: str, path: str, body: bytes = b"", *, key: str = "", keeps: bool = True) -> bytes:
    """A request as bytes; `key` is its Idempotency-Key."""
    lines = [f"{method} {path} HTTP/1.1", "Host: ledger"]
    if key:
        lines.append(f"Idempotency-Key: {key}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if not keeps:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body
