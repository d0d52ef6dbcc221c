"""One contestant under one load: start the service, let the clients loose, look at what is left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from bench.overload.generator import Answers, Phase, Plan
from bench.overload.work import CAPACITY, POOL_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lifeguard.development.embedded import EmbeddedServer

DEADLINE = 1.0
"""Seconds after which a client gives up."""
CALM = 0.5
"""Load after the crowd has gone, in capacities."""
START_TIMEOUT = 30.0
TRANSITIONS = "db_pool_breaker_transitions_total"
TEN_CONNECTIONS = {"POOL_MIN_SIZE": str(POOL_SIZE), "POOL_MAX_SIZE": str(POOL_SIZE)}


@dataclass(frozen=True, slots=True)
class Contestant:
    """`factory` makes its FastAPI app; a module of `bench` and a name in it."""

    name: str
    factory: str
    http: str = "httptools"
    """uvicorn's protocol."""


OURS = Contestant("Lifeguard", "overload.ours:on_lifeguard", http="lifeguard.server.protocol:Protocol")
ASYNCPG = Contestant("asyncpg.Pool", "overload.peers:on_asyncpg")
ASYNCPG_HALF_SECOND = Contestant("asyncpg.Pool, 0.5 s", "overload.peers:on_asyncpg_half_second")
PSYCOPG = Contestant("psycopg_pool", "overload.peers:on_psycopg")
PSYCOPG_HALF_SECOND = Contestant("psycopg_pool, 0.5 s", "overload.peers:on_psycopg_half_second")
SQLALCHEMY = Contestant("SQLAlchemy", "overload.peers:on_sqlalchemy")

CONTESTANTS = (OURS, ASYNCPG, ASYNCPG_HALF_SECOND, PSYCOPG, PSYCOPG_HALF_SECOND, SQLALCHEMY)


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long a trial lasts: `settle` and `measured` under load, then `calm` at half capacity."""

    settle: float
    measured: float
    calm: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What happened. `transitions` of the breaker are ours alone: None for a peer."""

    contestant: Contestant
    load: float
    """In capacities."""
    seconds: Seconds
    answers: Answers
    transitions: int | None


def hold(contestant: Contestant, load: float, seconds: Seconds, postgres: EmbeddedServer) -> Trial:
    """Run one trial with a fresh service."""
    with serving(contestant, postgres.dsn(unix=True)) as (process, port):
        rate = load * CAPACITY
        plan = Plan(
            port=port,
            seed=int(load * 1000),  # the same arrivals for every contestant
            phases=[
                Phase(rate, seconds.settle),
                Phase(rate, seconds.measured),
                Phase(CALM * CAPACITY, seconds.calm),
            ],
            deadline=DEADLINE,
            service=process.pid,
            postmaster=postgres.pid or 0,
        )
        answers = generate(plan)
        transitions = breaker_transitions(port) if contestant is OURS else None
        return Trial(contestant, load, seconds, answers, transitions)


def generate(plan: Plan) -> Answers:
    """Let the clients loose, and wait until the last one has left."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.overload.generator"],
        input=json.dumps(asdict(plan)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Answers(**json.loads(done.stdout))


@contextmanager
def serving(
    contestant: Contestant, dsn: str, settings: Mapping[str, str] = TEN_CONNECTIONS
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """uvicorn with one worker and no access log; killed afterwards, its queue is nobody's."""
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory"]
    command += [f"bench.{contestant.factory}", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", contestant.http, "--backlog", "4096"]
    command += ["--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "60"]
    environment = {**os.environ, **settings, "LOG_LEVEL": "warning", "DATABASE_URL": dsn}
    with TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            if not _comes_to_work(process, port):
                log.seek(0)
                raise RuntimeError(f"{contestant.name} does not work: {log.read().decode()}")
            yield process, port
        finally:
            process.kill()
            process.wait()


def _comes_to_work(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(OSError):
            if get(port, "/work")[0] == HTTPStatus.OK:
                return True
        time.sleep(0.05)
    return False


def breaker_transitions(port: int) -> int:
    """Of the database's breaker, since the start. Raises AssertionError where the service does not say."""
    lines = get(port, "/metrics")[1].splitlines()
    counts = [float(line.split()[-1]) for line in lines if line.startswith(f"{TRANSITIONS}{{")]
    assert counts, f"/metrics has no {TRANSITIONS}"
    return int(sum(counts))


def get(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
