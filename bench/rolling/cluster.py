"""Two replicas of the service behind HAProxy, each started and ended as a platform would."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from signal import Signals

CHECK_INTERVAL = 0.2
"""Seconds between two looks of HAProxy at a replica; one 503 takes it out, one 200 brings it back."""
LONGEST_STEP = 60.0
"""Seconds after which a replica that has not started, ended or been noticed fails the benchmark."""
BALANCER = "HAProxy is missing: apt-get install haproxy (Debian, Ubuntu), or brew install haproxy"
ROOT = str(Path(__file__).resolve().parents[2])

CONFIGURATION = """
global
    maxconn 1000
    stats socket {socket} level user

defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 60s
    timeout server 30s
    timeout check 2s

listen service
    bind 127.0.0.1:{port}
    balance roundrobin
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter {interval}ms fall 1 rise 1
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""


class Stuck(Exception):
    """Something that happens within seconds has not happened; the message says what."""


@dataclass
class Replica:
    """One place for a process of the service: `name` to HAProxy, a port, and who is there now."""

    name: str
    port: int
    variables: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    exits: list[int] = field(default_factory=list)
    """Exit codes of those that have been ended."""

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app", "serve"],
                env={**self.variables, "PORT": str(self.port)},
                cwd=self.log.parent,  # where there is no .env
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def end(self, sign: Signals) -> None:
        process = self.process
        assert process
        process.send_signal(sign)
        await until(lambda: process.poll() is not None, f"{self.name} does not end: {self.log.read_text()}")
        self.exits.append(process.returncode)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@dataclass
class Cluster:
    """The replicas and the address that clients know."""

    port: int
    stats: str
    """HAProxy's socket."""
    replicas: list[Replica]

    async def open(self) -> None:
        """Start the replicas and wait until HAProxy sends them requests."""
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            await self._until(replica, serves=True)

    async def roll(self, sign: Signals) -> None:
        """Replace one replica after the other: end it, start its successor, wait until that serves."""
        for replica in self.replicas:
            await replica.end(sign)
            await self._until(replica, serves=False)
            replica.start()
            await self._until(replica, serves=True)

    async def _until(self, replica: Replica, *, serves: bool) -> None:
        what = f"HAProxy does not see that {replica.name} is {'up' if serves else 'down'}"
        await until(lambda: self._serves(replica) is serves, what)

    def _serves(self, replica: Replica) -> bool:
        """Whether HAProxy has looked at the replica and sends it requests."""
        for line in self._ask("show stat").splitlines()[1:]:
            cells = line.split(",")
            if cells[1] == replica.name:
                return cells[17] == "UP" and cells[36].startswith("L7OK")  # status, check_status
        raise Stuck(f"HAProxy does not know {replica.name}")

    def _ask(self, question: str) -> str:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(self.stats)
            connection.sendall(f"{question}\n".encode())
            with connection.makefile() as answer:
                return answer.read()


@contextmanager
def cluster(directory: Path, variables: dict[str, str]) -> Iterator[Cluster]:
    """HAProxy, and two replicas that have yet to be started; all gone at the end."""
    port, one, two = free_ports(3)
    environment = {**os.environ, "PYTHONPATH": ROOT, **variables}
    replicas = [
        Replica("one", one, environment, directory / "one.log"),
        Replica("two", two, environment, directory / "two.log"),
    ]
    stats = directory / "haproxy.sock"
    configuration = directory / "haproxy.cfg"
    interval = round(CHECK_INTERVAL * 1000)
    configuration.write_text(
        CONFIGURATION.format(socket=stats, port=port, interval=interval, one=one, two=two)
    )
    with (directory / "haproxy.log").open("wb") as log:
        balancer = subprocess.Popen([_haproxy(), "-db", "-q", "-f", configuration], stdout=log, stderr=log)
    try:
        _until_listening(balancer, port, directory / "haproxy.log")
        yield Cluster(port, str(stats), replicas)
    finally:
        balancer.kill()
        balancer.wait()
        for replica in replicas:
            replica.kill()


def haproxy_version() -> str:
    """For the caption. Exits with a line when there is none."""
    said = subprocess.run([_haproxy(), "-v"], capture_output=True, text=True, check=True).stdout
    return said.split()[2]


async def until(happened: Callable[[], bool], otherwise: str) -> None:
    """Look every 20 ms. Raises Stuck with `otherwise` after LONGEST_STEP."""
    give_up = time.monotonic() + LONGEST_STEP
    while not happened():
        if time.monotonic() > give_up:
            raise Stuck(otherwise)
        await asyncio.sleep(0.02)


def _haproxy() -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = shutil.which("haproxy", path=path)
    if found is None:
        raise SystemExit(BALANCER)
    return found


def _until_listening(balancer: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + LONGEST_STEP
    while balancer.poll() is None and time.monotonic() < give_up:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise Stuck(f"HAProxy does not start: {log.read_text()}")


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
