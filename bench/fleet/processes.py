"""The processes: ours, which run the engine's own pool and its agreement with the others, and naive ones."""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import asyncpg
from lifeguard.database.fleet import Facts, Seat
from lifeguard.database.fleet_seat import FleetSeat
from lifeguard.database.fleet_watch import Fleet
from lifeguard.pool import Pool, PoolEvent, driver
from lifeguard.settings import Settings
from typing_extensions import override

from bench.fleet.server import ROUND_TRIP, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.fleet.server import Server

MINIMUM = 5
"""POOL_MIN_SIZE, its default: connections that each process keeps, ours and naive ones."""
# Seconds that the question for the others takes the server, for each session that there is.
_ASKED_PER_SESSION = 0.5e-6

_numbers = count(1)


class _Connector:
    """Stands in place of the pool's: with it all of the pool above its driver is the real one."""

    pooler = None
    hosts = (("simulated", 5432),)

    def __init__(self, server: Server, process: str) -> None:
        self._server = server
        self._process = process

    async def connect(self, is_urgent: Callable[[], bool] = lambda: False) -> asyncpg.Connection:  # noqa: ARG002
        return cast("asyncpg.Connection", await self._server.connect(self._process))

    async def ask_aside(self) -> None:
        (await self._server.connect(self._process)).terminate()

    def has_new_password(self) -> bool:
        return False

    def due_passwords(self) -> list[object]:
        return []


class _SimulatedSeat(FleetSeat):
    """A seat at the simulated server."""

    def __init__(self, server: Server, process: str) -> None:
        self._server = server
        self._name = process
        self._seat: Session | None = None

    @property
    @override
    def is_there(self) -> bool:
        return self._seat is not None and not self._seat.is_closed()

    @override
    async def ask(self) -> Facts:
        mine = await self._present()
        server = self._server
        await asyncio.sleep(ROUND_TRIP + _ASKED_PER_SESSION * len(server.sessions))
        self._check(mine)
        seats = sorted(server.seats.values(), key=lambda one: one.pid)
        seated = {one.process for one in seats} | {self._name}
        orphans = len(server.sessions) - sum(server.of_process[process] for process in seated)
        known = tuple(Seat(one.pid, one.claim or 0) for one in seats)
        return Facts(server.room, server.room, orphans, known, mine.pid, server.clock() - mine.began)

    @override
    async def say(self, claim: int) -> None:
        mine = await self._present()
        await asyncio.sleep(ROUND_TRIP / 2)
        self._check(mine)
        self._server.take_seat(mine, claim)
        await asyncio.sleep(ROUND_TRIP / 2)

    async def _present(self) -> Session:
        if self._seat is None or self._seat.is_closed():
            self._seat = await self._server.connect(self._name)
        return self._seat

    @staticmethod
    def _check(mine: Session) -> None:
        if mine.is_closed():
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    @override
    async def leave(self) -> None:
        self.cut()

    @override
    def cut(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.terminate()


class Ours:
    """A process with the engine's pool, its opener's back-off and its share of the server."""

    name = "Lifeguard"

    def __init__(self, server: Server) -> None:
        process = f"service#{next(_numbers):06x}"
        settings = Settings(
            service_name="service", pool_min_size=MINIMUM, pool_max_size="auto", pool_instances="auto"
        )
        with _connecting_by(_Connector(server, process)):
            self._pool = Pool(min_size=1, max_size=1, health_check_interval=0, on_event=self._hear)
        self._fleet = Fleet(self._pool, settings, _SimulatedSeat(server, process))

    def _hear(self, event: PoolEvent) -> None:
        if event.name == "connection_opened":
            self._fleet.connection_opened()

    async def start(self) -> None:
        await self._pool.open()
        self._fleet.start(lambda _: None)

    async def end(self) -> None:
        await self._fleet.stop()
        await self._pool.drain(5)

    @property
    def serves(self) -> bool:
        """Whether there is a connection."""
        return self._pool.get_size() > 0

    @property
    def has_its_minimum(self) -> bool:
        return self._pool.get_size() >= self._pool.get_min_size() > 0

    @property
    def has_no_place(self) -> bool:
        """Whether it was told that the server cannot take it."""
        return self._fleet.report.standing == "full"


class Naive:
    """A process whose connections each reconnect by themselves, at once and then after fixed pauses that
    double: what a loop around `connect()` does, or a pool that leaves reconnecting to its members."""

    name = "naive back-off"
    FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0

    def __init__(self, server: Server) -> None:
        self._server = server
        self._name = f"service#{next(_numbers):06x}"
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = 0

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep_one()) for _ in range(MINIMUM)]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._server.kill(self._name)

    async def _keep_one(self) -> None:
        while True:
            session = await self._connected_again()
            lost = asyncio.Event()
            session.add_termination_listener(partial(_set, lost))
            self._connected += 1
            await lost.wait()
            self._connected -= 1

    async def _connected_again(self) -> Session:
        pause = self.FIRST_PAUSE
        while True:
            try:
                return await self._server.connect(self._name)
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, self.LONGEST_PAUSE)

    @property
    def serves(self) -> bool:
        return self._connected > 0

    @property
    def has_its_minimum(self) -> bool:
        return self._connected == MINIMUM

    has_no_place = False


class Patient(Naive):
    """With a first pause of a second."""

    name = "naive back-off, first pause 1 s"
    FIRST_PAUSE = 1.0


def _set(event: asyncio.Event, _: object) -> None:
    event.set()


@contextmanager
def _connecting_by(connector: _Connector) -> Iterator[None]:
    """Pools that are made here have this one."""
    module = sys.modules[Pool.__module__]
    own = module.__dict__["Connector"]
    module.__dict__["Connector"] = lambda *_, **__: connector
    try:
        yield
    finally:
        module.__dict__["Connector"] = own


@contextmanager
def without_a_driver() -> Iterator[None]:
    """The places in which a pool asks the driver about a session without asking the server."""
    stand_ins: dict[str, Any] = {  # Any: functions of several kinds
        "reading": lambda _: lambda: False,
        "client_address": lambda _: None,
        "last_words": lambda _: None,
    }
    before = {name: driver.__dict__[name] for name in stand_ins}
    driver.__dict__.update(stand_ins)
    try:
        yield
    finally:
        driver.__dict__.update(before)
