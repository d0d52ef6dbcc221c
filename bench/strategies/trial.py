"""One strategy through all scenes: a fresh service, its clients, and a network that misbehaves."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.overload.generator import Answers, Phase, Plan
from bench.overload.trial import OURS, Contestant, generate, get, serving
from bench.processes import children, private_memory, processor_seconds
from bench.strategies.network import network_to

if TYPE_CHECKING:
    from lifeguard.development.embedded import EmbeddedServer

    from bench.strategies.network import Network

CONNECTION_EACH = Contestant("a connection per request", "strategies.services:on_a_connection_each")
SQLALCHEMY = Contestant("SQLAlchemy's default pool", "strategies.services:on_sqlalchemy_defaults")
ASYNCPG = Contestant("asyncpg's default pool", "strategies.services:on_asyncpg_defaults")
CONTESTANTS = (CONNECTION_EACH, SQLALCHEMY, ASYNCPG, OURS)

DEADLINE = 5.0
"""Seconds after which a client gives up."""
STEADY = 100.0
"""Requests a second, where nothing else is said."""
THOUSAND, THOUSAND_SECONDS = 1000, 2.0
BURST, BURST_SECONDS, BURST_EVERY = 600.0, 0.5, 2.0
"""Requests a second in a burst, how long it lasts, and seconds from one to the next."""
JITTER = 0.2
"""Seconds by which a round trip varies."""
AWAY = 1.0
"""Seconds from the server's crash until it is started again."""
BEFORE_THE_CRASH = 2.0
LOOK_EVERY = 0.05
"""Seconds between two looks at memory."""
AT_REST, LONGEST_REST = 0.1, 10.0
"""Seconds in which a service answers that has no backlog; the longest wait for that between two scenes."""
WITHOUT_TLS = {"PGSSLMODE": "disable"}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of the scenes that have no length of their own."""

    bursts: float
    jitter: float
    crash: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What clients do, and what happens meanwhile."""

    name: str
    phases: list[Phase]
    jitter: float = 0.0
    crash: bool = False
    measures_memory: bool = False


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scene."""

    scene: Scene
    answers: Answers
    opened: int
    """Connections to the server that were opened; in the first scene also those of the start."""
    memory: int
    """Bytes at the highest: the service's growth since it was idle, and all backends; 0: not measured."""
    service_cores: float
    database_cores: float | None
    """None: the server that was asked is no more."""
    network_cores: float
    generator_cores: float


@dataclass(frozen=True, slots=True)
class Trial:
    contestant: Contestant
    played: list[Played]


def scenes(lengths: Lengths) -> list[Scene]:
    """In the order in which they are played. The thousand come first: to a service that is fresh."""
    bursts = int(lengths.bursts / BURST_EVERY)
    burst = [Phase(STEADY, BURST_EVERY - BURST_SECONDS), Phase(BURST, BURST_SECONDS)]
    return [
        Scene("a thousand", [Phase(THOUSAND / THOUSAND_SECONDS, THOUSAND_SECONDS)], measures_memory=True),
        Scene("bursts", burst * bursts + [Phase(STEADY, BURST_EVERY)]),
        Scene("jitter", [Phase(STEADY, lengths.jitter)], jitter=JITTER),
        Scene("crash", [Phase(STEADY, lengths.crash)], crash=True),
    ]


def hold(contestant: Contestant, lengths: Lengths, seed: int, postgres: EmbeddedServer) -> Trial:
    """Run one trial with a fresh service; afterwards the server is running."""
    own = set(children(postgres.pid or 0))
    with network_to(postgres.port) as network:
        dsn = postgres.dsn().replace(f":{postgres.port}/", f":{network.port}/")
        with serving(contestant, dsn, WITHOUT_TLS) as (service, port):
            stage = Stage(postgres, network, service.pid, port, own)
            return Trial(contestant, [stage.play(scene, seed) for scene in scenes(lengths)])


class Stage:
    """What a trial needs for its scenes; `own` are the server's processes that are no backends."""

    def __init__(
        self, postgres: EmbeddedServer, network: Network, service: int, port: int, own: set[int]
    ) -> None:
        self._postgres = postgres
        self._network = network
        self._service = service
        self._port = port
        self._own = own
        self._idle_memory = private_memory(service)
        self._opened = 0

    def play(self, scene: Scene, seed: int) -> Played:
        postmaster = self._postgres.pid or 0
        plan = Plan(self._port, seed, scene.phases, DEADLINE, self._service, postmaster)
        self._network.set_jitter(scene.jitter)
        before, began = self._processor_time(postmaster), time.monotonic()
        with ThreadPoolExecutor(1) as clients:
            playing = clients.submit(generate, plan)
            if scene.crash:
                self._crash()
            memory = 0
            while scene.measures_memory and not playing.done():
                memory = max(memory, self._memory(postmaster))
                time.sleep(LOOK_EVERY)
            answers = playing.result()
        seconds = time.monotonic() - began
        service, database, network = (
            (after - earlier) / seconds
            for after, earlier in zip(self._processor_time(postmaster), before, strict=True)
        )
        opened = self._network.set_jitter(0)
        self._rest()
        self._opened, earlier_opened = opened, self._opened
        return Played(
            scene=scene,
            answers=answers,
            opened=opened - earlier_opened,
            memory=memory,
            service_cores=service,
            database_cores=None if scene.crash else database,
            network_cores=network,
            generator_cores=sum(phase["generator"] for phase in answers.processor) / seconds,
        )

    def _rest(self) -> None:
        """Wait until the service has worked off what clients who gave up have left behind."""
        give_up = time.monotonic() + LONGEST_REST
        while time.monotonic() < give_up:
            asked = time.monotonic()
            with suppress(OSError):
                get(self._port, "/work")
                if time.monotonic() - asked < AT_REST:
                    return

    def _crash(self) -> None:
        time.sleep(BEFORE_THE_CRASH)
        self._postgres.stop("immediate")
        time.sleep(AWAY)
        self._postgres.start()

    def _memory(self, postmaster: int) -> int:
        backends = set(children(postmaster)) - self._own
        return private_memory(self._service) - self._idle_memory + sum(map(private_memory, backends))

    def _processor_time(self, postmaster: int) -> tuple[float, float, float]:
        backends = sum(map(processor_seconds, children(postmaster)))
        return (
            processor_seconds(self._service),
            processor_seconds(postmaster, ended_children=True) + backends,
            processor_seconds(self._network.process),
        )
