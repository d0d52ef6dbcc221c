"""One contestant's turn: start it, load it, look at what that took."""

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
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from bench.http import clients, work
from bench.http.clients import Load
from bench.overload import generator
from bench.overload.generator import Answers, Phase
from bench.overload.trial import generate, get
from bench.processes import private_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lifeguard.development.embedded import EmbeddedServer

CONNECTIONS = (16, 64)
WRITERS = 16
"""Connections by which accounts are opened."""
START_TIMEOUT = 120.0
LOOK_EVERY = 0.004
"""Seconds between two attempts to get the first answer."""
DEADLINE = 5.0
"""Seconds after which a client of the open loop gives up."""
PARTS = 10
"""In which the long run is done; memory is looked at between them."""
WAITING_BESIDE_A_LOCK = 10
"""The longest queue where refusals are measured; whoever comes then is refused at once."""

TEN_CONNECTIONS = {"POOL_MIN_SIZE": str(work.POOL_SIZE), "POOL_MAX_SIZE": str(work.POOL_SIZE)}
PRODUCTION = {"APP_ENV": "production", "LOG_LEVEL": "info", "LOG_FORMAT": "json", **TEN_CONNECTIONS}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A peer has a `factory`: a module of `bench.http.peers` and a name in it. Ours is a program."""

    name: str
    factory: str | None = None
    program: str = "app"


OURS = Contestant("Lifeguard")
BARE = Contestant("asyncpg.Pool", "on_asyncpg:bare")
INSTRUMENTED = Contestant("asyncpg.Pool, instrumentator", "on_asyncpg:instrumented")
ALIKE = Contestant("asyncpg.Pool, the same for the user", "on_asyncpg:alike")
LEAST = Contestant("asyncpg.Pool, no dependency", "on_asyncpg:least")
SQLALCHEMY = Contestant("SQLAlchemy", "on_sqlalchemy:bare")
CONTESTANTS = (
    OURS,
    LEAST,
    BARE,
    INSTRUMENTED,
    ALIKE,
    Contestant("psycopg_pool", "on_psycopg:bare"),
    Contestant("psycopg_pool, instrumentator", "on_psycopg:instrumented"),
    Contestant("psycopg_pool, the same for the user", "on_psycopg:alike"),
    SQLALCHEMY,
    Contestant("SQLAlchemy, instrumentator", "on_sqlalchemy:instrumented"),
    Contestant("SQLAlchemy, the same for the user", "on_sqlalchemy:alike"),
)
LONG_RUNS = (OURS, ALIKE)
"""Whose memory is looked at over many requests."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Seconds of what a turn has, and the most of the long run: requests and, if set, seconds."""

    rounds: int
    settle: float
    measured: float
    half: float
    """Of the open loop, whose first third is not counted."""
    requests: int
    longest: float | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant in one round."""

    contestant: Contestant
    round: int
    start: float
    """Seconds from the start of the process to the first account that it has found."""
    memory: int
    """Bytes when nothing had been asked but that."""
    reads: dict[int, Load]
    """By connections."""
    writes: Load
    half: Half
    memory_after: int


@dataclass(frozen=True, slots=True)
class Half:
    """Poisson arrivals at half of what the contestant could do at the most connections."""

    rate: float
    answers: Answers


@dataclass(frozen=True, slots=True)
class Refusals:
    """What refusing costs, in one round."""

    round: int
    saturated: Load
    """All connections are with requests that wait for a lock, and the queue is full."""
    closed: Load
    """The database is stopped, and the circuit open."""


@dataclass(frozen=True, slots=True)
class LongRun:
    """Bytes of private memory, and the requests answered by then: at the start and after each part."""

    contestant: Contestant
    requests: list[int]
    memory: list[int]
    unexpected: int
    """Answers that a request of that kind should not get, and those that did not come."""
    clients: float
    """Processor time of theirs for each second."""


@dataclass(frozen=True, slots=True)
class Stand:
    """The database with its accounts, and where services write their log."""

    postgres: EmbeddedServer
    first: int
    """Id of the first account."""
    log: Path
    core: int | None
    """Which services have to themselves; None: the machine has but one."""

    @property
    def dsn(self) -> str:
        return self.postgres.dsn(unix=True)


def prepared(postgres: EmbeddedServer, core: int | None) -> Stand:
    """Migrate as the service does, and open the accounts."""
    dsn = postgres.dsn(unix=True)
    environment = {**_environment(), **PRODUCTION, "DATABASE_URL": dsn}
    subprocess.run([sys.executable, "-m", "app", "migrate"], env=environment, check=True, capture_output=True)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "INSERT INTO accounts (is_funding, owner, currency) VALUES (true, 'funding', 'EUR')"
        )
        rows = connection.execute(
            "INSERT INTO accounts (owner, currency, balance)"
            " SELECT 'account ' || n, 'EUR', 0 FROM generate_series(1, %s) AS n RETURNING id",
            (work.ACCOUNTS,),
        ).fetchall()
    return Stand(postgres, min(row[0] for row in rows), postgres.directory / "service.log", core)


def hold(contestant: Contestant, number: int, lengths: Lengths, stand: Stand) -> Turn:
    """One turn with a fresh process."""
    with serving(contestant, stand) as service:
        idle = private_memory(service.pid)
        finding = work.finding(stand.first)
        reads = {
            connections: service.load(finding, connections, lengths.settle, lengths.measured)
            for connections in CONNECTIONS
        }
        writes = service.load([work.OPEN], WRITERS, lengths.settle, lengths.measured)
        half = service.half(reads[CONNECTIONS[-1]].rate / 2, number, lengths.half, finding)
        after = private_memory(service.pid)
    return Turn(contestant, number, service.start, idle, reads, writes, half, after)


def refuse(number: int, lengths: Lengths, stand: Stand) -> Refusals:
    """Let the service refuse: behind a full queue, and while the database is away, which is back then."""
    finding = work.finding(stand.first)
    queue = {"POOL_MAX_WAITING": str(WAITING_BESIDE_A_LOCK)}
    patience = {"LOCK_TIMEOUT": "60", "STATEMENT_TIMEOUT": "60", "COMMAND_TIMEOUT": "70"}
    with serving(OURS, stand, queue | patience) as service:
        with psycopg.connect(stand.dsn) as connection:
            connection.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
            # Whoever waits for the lock when the clients leave has hung up, and its connection is free again.
            saturated = service.load(finding, CONNECTIONS[-1], lengths.settle, lengths.measured)
        stand.postgres.stop("immediate")
        try:
            service.until_refused(work.path_of(stand.first))
            closed = service.load(finding, CONNECTIONS[-1], lengths.settle, lengths.measured)
        finally:
            stand.postgres.start()
    return Refusals(number, saturated, closed)


def run_long(contestant: Contestant, lengths: Lengths, stand: Stand) -> LongRun:
    """Ask a fresh process for very much, of all kinds, and look at its memory ten times."""
    most, longest = lengths.requests // PARTS, (lengths.longest or sys.maxsize) / PARTS
    expected = (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)
    requests, unexpected, spent, seconds = [0], 0, 0.0, 0.0
    with serving(contestant, stand) as service:
        memory = [private_memory(service.pid)]
        for _ in range(PARTS):
            load = service.load(work.mixture(stand.first), CONNECTIONS[0], 0, longest, most)
            requests.append(requests[-1] + load.answered)
            memory.append(private_memory(service.pid))
            unexpected += load.other_than(*expected)
            spent, seconds = spent + load.clients, seconds + load.seconds
    return LongRun(contestant, requests, memory, unexpected, spent / seconds)


@dataclass(frozen=True, slots=True)
class Service:
    """A process that serves."""

    pid: int
    port: int
    start: float
    stand: Stand

    def load(
        self,
        requests: list[str],
        connections: int,
        settle: float,
        seconds: float,
        most: int = sys.maxsize,
    ) -> Load:
        """Let clients ask for as much as there is. Afterwards the log is emptied: nobody keeps it."""
        postmaster = self.stand.postgres.pid or 0
        plan = clients.Plan(self.port, connections, requests, settle, seconds, self.pid, postmaster, most)
        done = subprocess.run(
            [sys.executable, "-m", "bench.http.clients"],
            input=json.dumps(asdict(plan)),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        os.truncate(self.stand.log, 0)
        load = Load(**json.loads(done.stdout))
        if not load.answered:
            raise RuntimeError(f"nobody was answered within {seconds:g} s")
        return load

    def half(self, rate: float, seed: int, seconds: float, requests: list[str]) -> Half:
        """Let clients come that do not wait for each other's answers."""
        phases = [Phase(rate, seconds / 3), Phase(rate, seconds * 2 / 3)]
        postmaster = self.stand.postgres.pid or 0
        plan = generator.Plan(self.port, seed, phases, DEADLINE, self.pid, postmaster, requests)
        return Half(rate, generate(plan))

    def until_refused(self, path: str) -> None:
        """Wait for the circuit to be open."""
        give_up = time.monotonic() + START_TIMEOUT
        while time.monotonic() < give_up:
            if get(self.port, path)[0] == HTTPStatus.SERVICE_UNAVAILABLE:
                return
        raise RuntimeError("the database is stopped, and nobody is refused")


@contextmanager
def serving(
    contestant: Contestant, stand: Stand, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Start a process of the contestant; it is killed afterwards.

    Ours is started by `python -m app serve`, as in production. Its access log goes to a file, as the peers'.
    """
    port = _free_port()
    environment = {
        **_environment(),
        **PRODUCTION,
        "DATABASE_URL": stand.dsn,
        "PORT": str(port),
        **(settings or {}),
    }
    stand.log.unlink(missing_ok=True)
    began = time.monotonic()
    with stand.log.open("ab") as log:  # to append: it is cut short while it is written to
        process = subprocess.Popen(_command(contestant, port), env=environment, stdout=log, stderr=log)
        try:
            if stand.core is not None:
                os.sched_setaffinity(process.pid, {stand.core})
            if not _comes_to_work(process, port, work.path_of(stand.first)):
                raise RuntimeError(f"{contestant.name} does not work: {stand.log.read_text()[-2000:]}")
            yield Service(process.pid, port, time.monotonic() - began, stand)
        finally:
            process.kill()
            process.wait()


def _command(contestant: Contestant, port: int) -> list[str]:
    if contestant.factory is None:
        return [sys.executable, "-m", contestant.program, "serve"]
    command = [sys.executable, "-m", "uvicorn", "--factory", f"bench.http.peers.{contestant.factory}"]
    command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--backlog", "4096"]
    return [*command, "--no-access-log", "--log-level", "warning", "--timeout-keep-alive", "75"]


def _environment() -> dict[str, str]:
    """This process's, without what would turn tracing on or point to another database."""
    foreign = ("OTEL_", "DATABASE_", "POOL_", "PG")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _comes_to_work(process: subprocess.Popen[bytes], port: int, path: str) -> bool:
    give_up = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < give_up:
        with suppress(OSError):
            if get(port, path)[0] == HTTPStatus.OK:
                return True
        time.sleep(LOOK_EVERY)
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
