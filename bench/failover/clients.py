"""The clients: so many requests a second, whether or not earlier ones were answered, reads and transfers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.rolling.clients import Failed, Log, Wire, Write, http, transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

READS_PER_WRITE = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One request; times are of `time.monotonic()`. `failure` is empty for a success."""

    due: float
    answered: float
    writes: bool
    failure: str


@dataclass(slots=True)
class Seen(Log):
    """What the clients saw."""

    answers: list[Answer] = field(default_factory=list)


class Crowd:
    """An open loop of `rate` requests a second (Poisson arrivals), until it is stopped."""

    def __init__(self, port: int, *, rate: float, accounts: Sequence[int], seed: int) -> None:
        self._port = port
        self._rate = rate
        self._accounts = list(accounts)
        self._chance = random.Random(seed)
        self._stopped = False
        self._idle: list[Wire] = []
        self._asked = 0
        self.seen = Seen()

    async def run(self) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while not self._stopped:
                due += self._chance.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self._asked += 1
                group.create_task(self._one(due, self._asked))
        for wire in self._idle:
            wire.close()

    def stop(self) -> None:
        self._stopped = True

    async def _one(self, due: float, number: int) -> None:
        wire = self._idle.pop() if self._idle else Wire(self._port)
        writes = not self._chance.randrange(READS_PER_WRITE + 1)
        failure = ""
        try:
            if writes:
                await self._write(wire, f"{number}-{due:.6f}")
            else:
                await wire.ask(http("GET", f"/v1/accounts/{self._chance.choice(self._accounts)}"))
        except Failed as failed:
            failure = str(failed)
            self.seen.failures.append((time.monotonic(), failure))
        self._idle.append(wire)
        self.seen.answers.append(Answer(due, time.monotonic(), writes, failure))

    async def _write(self, wire: Wire, key: str) -> None:
        one, other = self._chance.sample(self._accounts, 2)
        write = Write(key, transfer(one, other, self._chance.randint(1, 100)))
        try:
            booked = await wire.ask(http("POST", "/v1/transfers", write.body, key=key))
        except Failed:
            self.seen.unacknowledged.append(write)
            raise
        self.seen.acknowledged[key] = json.loads(booked)["id"]
