"""One contestant, whose database is stopped and started again under a steady load."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.overload.generator import Answers, Phase, Plan
from bench.overload.trial import ASYNCPG, OURS, Contestant, generate, serving
from bench.overload.work import CAPACITY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifeguard.development.embedded import EmbeddedServer, StopMode

CONTESTANTS = (OURS, ASYNCPG)
RATE = CAPACITY / 2
"""Requests a second: no overload, so whatever fails fails for the outage."""
DEADLINE = 5.0
"""Seconds after which a client gives up: longer than POOL_OUTAGE_PATIENCE."""
CALM = 2.0
"""Seconds before the first outage."""
UP = 4.0
"""Seconds after each."""


@dataclass(frozen=True, slots=True)
class Stop:
    """How the server is to be stopped, and for how many seconds it stays away."""

    mode: StopMode
    seconds: float


@dataclass(frozen=True, slots=True)
class Outage:
    """One that happened; instants in seconds from the start of the plan."""

    stop: Stop
    stopped: float
    """The stop was ordered."""
    returned: float
    """The server said that it takes connections."""
    over: float
    """We stopped looking, well before the next one."""


@dataclass(frozen=True, slots=True)
class Trial:
    contestant: Contestant
    outages: list[Outage]
    answers: Answers


def hold(contestant: Contestant, stops: Sequence[Stop], postgres: EmbeddedServer) -> Trial:
    """Run one trial with a fresh service; afterwards the server is running again."""
    with serving(contestant, postgres.dsn(unix=True)) as (process, port):
        seconds = CALM + sum(stop.seconds + UP + DEADLINE + 1 for stop in stops)
        plan = Plan(
            port=port,
            seed=1,
            phases=[Phase(RATE, seconds)],
            deadline=DEADLINE,
            service=process.pid,
            postmaster=postgres.pid or 0,
        )
        with ThreadPoolExecutor(1) as clients:
            playing = clients.submit(generate, plan)
            time.sleep(CALM + 1)  # the clients' process needs a moment to start
            instants = [_stop_and_start(postgres, stop) for stop in stops]
            answers = playing.result()
    return Trial(contestant, [_seen_from(answers.began, *instant) for instant in instants], answers)


def _stop_and_start(postgres: EmbeddedServer, stop: Stop) -> tuple[Stop, float, float, float]:
    stopped = time.monotonic()
    postgres.stop(stop.mode)
    time.sleep(stop.seconds)
    postgres.start()
    returned = time.monotonic()
    time.sleep(UP)
    over = time.monotonic()
    time.sleep(DEADLINE)  # so that the next one does not catch whom this one still counts
    return stop, stopped, returned, over


def _seen_from(began: float, stop: Stop, stopped: float, returned: float, over: float) -> Outage:
    return Outage(stop, stopped - began, returned - began, over - began)
