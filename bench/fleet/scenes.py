"""What happens to the processes, and what the server and they have to show for it."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.fleet import virtual_time
from bench.fleet.processes import Naive, Ours, Patient, without_a_driver
from bench.fleet.server import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

CONTESTANTS = (Ours, Naive, Patient)

RESTART, DEPLOY, SCALE_OUT = "restart", "deploy", "scale out"
# Sessions of the server for each process, where the server is not what is scarce: POOL_HEADROOM of it, less a
# seat, is more than the minimum.
ROOM_EACH = 12
# Seconds in which an orchestrator starts what it starts together.
STARTED_WITHIN = 1.0
# Seconds: until all have settled, before anything happens to them.
QUIET = 20.0
# Seconds between two looks at the processes.
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scene of one contestant. Times are seconds since it began; of a restart since the server's return,
    of a deploy since its last step."""

    contestant: str
    scene: str
    processes: int
    peak: int
    """Most attempts to connect in any second, from the beginning of the scene."""
    attempts: int
    refused: int
    """Attempts that found no session left at the server."""
    most_sessions: int
    room: int
    """Sessions that the server has for them."""
    all_served: float | None
    """When each process that has a place had a connection; None: never."""
    full_service: float | None
    """When each of those had its minimum."""
    without_place: int
    """Processes that were told that the server has no place for them."""
    rates: tuple[int, ...]
    """Attempts in each second."""


Process = Ours | Naive
Kind = type[Ours] | type[Naive]


class Scene:
    """A server, its processes, and a stopwatch."""

    def __init__(self, kind: Kind, max_connections: int, clock: virtual_time.Clock) -> None:
        self.kind = kind
        self.clock = clock
        self.server = Server(clock, max_connections)
        self.processes: list[Process] = []
        self.began = self.counted_from = clock()
        self._served: float | None = None
        self._full: float | None = None

    async def start(self, number: int) -> None:
        """Start so many more, within a second."""
        await asyncio.gather(*(self._start_one() for _ in range(number)))

    async def _start_one(self) -> None:
        await asyncio.sleep(random.uniform(0, STARTED_WITHIN))
        process = self.kind(self.server)
        await process.start()
        self.processes.append(process)

    def begin(self) -> None:
        """From now on attempts are counted."""
        self.server.attempts.clear()
        self.server.refused.clear()
        self.server.most = len(self.server.sessions)
        self.began = self.counted_from = self.clock()

    async def watch(self, seconds: float, expected: int) -> None:
        """Look, until all of so many are served, how long that has taken; for `seconds` in any case."""
        end = self.clock() + seconds
        self._served = self._full = None
        while self.clock() < end:
            placed = [process for process in self.processes if not process.has_no_place]
            there = len(self.processes) == expected
            now = self.clock() - self.counted_from
            if self._served is None and there and all(process.serves for process in placed):
                self._served = now
            if there and all(process.has_its_minimum for process in placed):
                self._full = now if self._full is None else self._full
            else:
                self._full = None
            await asyncio.sleep(_LOOK)

    def outcome(self, scene: str) -> Outcome:
        attempts = self.server.attempts
        return Outcome(
            contestant=self.kind.name,
            scene=scene,
            processes=len(self.processes),
            peak=peak(attempts),
            attempts=len(attempts),
            refused=len(self.server.refused),
            most_sessions=self.server.most,
            room=self.server.room,
            all_served=self._served,
            full_service=self._full,
            without_place=sum(process.has_no_place for process in self.processes),
            rates=tuple(_per_second(attempts, self.began, self.clock())),
        )

    async def end(self) -> None:
        await asyncio.gather(*(process.end() for process in self.processes))


def peak(attempts: Sequence[float]) -> int:
    """Most in any second, wherever it begins."""
    return max((bisect_right(attempts, at + 1.0) - number for number, at in enumerate(attempts)), default=0)


def _per_second(attempts: Sequence[float], began: float, ended: float) -> Iterator[int]:
    for second in range(int(ended - began)):
        yield bisect_left(attempts, began + second + 1) - bisect_left(attempts, began + second)


async def restart(scene: Scene, processes: int, *, away: float) -> None:
    """The server stops at once, and is back after `away` seconds."""
    await scene.start(processes)
    await asyncio.sleep(QUIET)
    scene.begin()
    scene.server.stop()
    await asyncio.sleep(away)
    scene.server.start()
    scene.counted_from = scene.clock()
    await scene.watch(30, processes)


async def deploy(scene: Scene, processes: int) -> None:
    """A rolling update with a surge of a quarter: as many new ones start, then as many old ones end."""
    await scene.start(processes)
    await asyncio.sleep(QUIET)
    scene.begin()
    surge = max(1, processes // 4)
    for _ in range(processes // surge):
        await scene.start(surge)
        await asyncio.sleep(15)  # minReadySeconds
        leaving, scene.processes = scene.processes[:surge], scene.processes[surge:]
        await asyncio.gather(*(process.end() for process in leaving))
    scene.counted_from = scene.clock()
    await scene.watch(30, processes)


async def scale_out(scene: Scene, processes: int) -> None:
    """From a tenth of them to all of them."""
    first = processes // 10
    await scene.start(first)
    await asyncio.sleep(QUIET)
    scene.begin()
    starting = asyncio.create_task(scene.start(processes - first))
    await scene.watch(60, processes)
    await starting


def play(
    name: str, kind: Kind, max_connections: int, happens: Callable[[Scene], Awaitable[None]], seed: int
) -> Outcome:
    """Let it happen to this kind of processes."""
    clock = virtual_time.Clock()
    outcomes: list[Outcome] = []

    async def scene() -> None:
        stage = Scene(kind, max_connections, clock)
        await happens(stage)
        outcomes.append(stage.outcome(name))
        await stage.end()

    random.seed(seed)
    with without_a_driver():
        virtual_time.run(scene(), clock)
    return outcomes[0]
