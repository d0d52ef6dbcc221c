"""One contestant: users alone, then users beside the attackers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.hostile.attackers import KINDS
from bench.hostile.attackers import Plan as AttackPlan
from bench.overload.generator import Answers, Phase, Plan
from bench.overload.trial import DEADLINE, Contestant, breaker_transitions, generate, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifeguard.development.embedded import EmbeddedServer

RATE = 100
"""Requests of users a second."""
CONNECTIONS = 64
SETTLE = 2.0
"""Seconds of an attack, and of the quiet before it, until the users are counted."""
_START = 2.0
"""Seconds that the attackers go on, so that they do not end before the users."""

OURS = Contestant("Lifeguard", "hostile.services:on_lifeguard", http="lifeguard.server.protocol:Protocol")
ASYNCPG = Contestant("asyncpg.Pool", "hostile.services:on_asyncpg")
CONTESTANTS = (OURS, ASYNCPG)
EVERYTHING = "all of them"
ATTACKS = {EVERYTHING: tuple(kind.__name__ for kind in KINDS), **{k.__name__: (k.__name__,) for k in KINDS}}
"""Names of the kinds that an attack has; the 64 connections are divided among them."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long users are measured: before the attack and during it."""

    quiet: float
    hostile: float


@dataclass(frozen=True, slots=True)
class Trial:
    """`quiet` before the attack, `hostile` during it."""

    contestant: Contestant
    name: str
    """Of the attack."""
    seconds: float
    """Of it that were measured."""
    quiet: Answers
    hostile: Answers
    attack: dict[str, Any]
    memory: int
    """Bytes that the service had in memory at most."""
    transitions: int | None


def hold(contestant: Contestant, name: str, seconds: Seconds, postgres: EmbeddedServer) -> Trial:
    """Run one trial with a fresh service, which has a core of its own where there are several."""
    with apart() as core, serving(contestant, postgres.dsn(unix=True)) as (process, port):
        if core is not None:
            os.sched_setaffinity(process.pid, {core})

        def users(seconds: float) -> Answers:
            phases = [Phase(RATE, SETTLE), Phase(RATE, seconds)]
            return generate(Plan(port, 1, phases, DEADLINE, process.pid, postgres.pid or 0))

        quiet = users(seconds.quiet)
        plan = AttackPlan(port, SETTLE + seconds.hostile + _START, CONNECTIONS, ATTACKS[name])
        with _attackers(plan) as attackers:
            hostile = users(seconds.hostile)
            heard = json.loads(attackers.communicate()[0])
        memory = _peak_memory(process.pid)
        transitions = breaker_transitions(port) if contestant is OURS else None
    return Trial(contestant, name, seconds.hostile, quiet, hostile, heard, memory, transitions)


@contextmanager
def _attackers(plan: AttackPlan) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.hostile.attackers", json.dumps(asdict(plan))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as attackers:
        try:
            yield attackers
        finally:
            attackers.kill()


@contextmanager
def apart() -> Iterator[int | None]:
    """Leave a core to the service, where there are several; all that is started meanwhile has the others."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(cores) < 2:
        yield None
        return
    os.sched_setaffinity(0, cores - {min(cores)})
    try:
        yield min(cores)
    finally:
        os.sched_setaffinity(0, cores)


def _peak_memory(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
