"""A real Patroni cluster on this machine: etcd, and two or three servers of the embedded PostgreSQL.

Patroni and etcd are brought by whoever runs this: `PATRONI` is the program of the first (`pip install
patroni[etcd3]` in an environment of its own), `ETCD` that of the second (Debian's etcd-server).
"""

from __future__ import annotations

import asyncio
import http
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lifeguard.development.embedded import binaries
from lifeguard.development.unprivileged import account_for

from bench.rolling.cluster import Stuck, free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCOPE = "bench"
LOOP_WAIT, TTL = 1, 20
"""Seconds: Patroni's turn, its least; and how long the leader's key outlives it, its least, too."""
LONGEST_STEP = 120.0
"""Seconds after which something that should have happened fails the benchmark."""


class Missing(Exception):
    """A program is not there; the message says which, and how to get it."""


def programs() -> tuple[str, str]:
    """Patroni's and etcd's. Raises Missing."""
    patroni = os.environ.get("PATRONI") or shutil.which("patroni")
    etcd = os.environ.get("ETCD") or shutil.which("etcd")
    if not patroni:
        raise Missing("PATRONI: pip install 'patroni[etcd3]' 'psycopg[binary]', and name its program")
    if not etcd:
        raise Missing("ETCD: apt-get install etcd-server, or name its program")
    return patroni, etcd


@dataclass
class Node:
    """One server with its Patroni."""

    name: str
    port: int
    api: int
    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def postmaster(self) -> int | None:
        try:
            return int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def role(self) -> dict[str, object]:
        """What its Patroni says of it; empty while that does not answer."""
        return _get(f"http://127.0.0.1:{self.api}/patroni")

    def kill(self) -> None:
        """End it as a crash does: no Patroni, no server, no last word."""
        assert self.process
        postmaster = self.postmaster
        self.process.send_signal(signal.SIGSTOP)  # or it would start the server again
        if postmaster is not None:
            os.kill(postmaster, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@dataclass
class Cluster:
    """The servers, and who leads them."""

    nodes: list[Node]
    password: str
    patroni: str
    logs: Path
    spawn: Callable[[list[str], Path], subprocess.Popen[bytes]]
    """Start a program as somebody who may run PostgreSQL; its output goes to that file."""
    etcd: subprocess.Popen[bytes] | None = None

    def dsn(self, database: str = "postgres", *, ports: list[int] | None = None) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or [node.port for node in self.nodes])
        return f"postgresql://postgres:{self.password}@{hosts}/{database}"

    def start(self, node: Node) -> None:
        node.process = self.spawn(
            [self.patroni, str(node.directory / "patroni.json")], self.logs / f"{node.name}.log"
        )

    def leader(self) -> Node | None:
        """The one that takes writes, as it says itself."""
        for node in self.nodes:
            said = node.role()
            if said.get("role") in {"primary", "master"} and said.get("state") == "running":
                return node
        return None

    async def settled(self) -> Node:
        """Wait until one leads and the others stream from it, one of them synchronously, as etcd has it too:
        no other would be promoted. Gives who leads."""
        give_up = time.monotonic() + LONGEST_STEP
        while time.monotonic() < give_up:
            leader = await asyncio.to_thread(self.leader)
            if leader is not None and await asyncio.to_thread(self._is_settled, leader):
                return leader
            await asyncio.sleep(0.1)
        raise Stuck(f"no settled cluster: {[node.role() for node in self.nodes]}")

    def _is_settled(self, leader: Node) -> bool:
        members = _get(f"http://127.0.0.1:{leader.api}/cluster").get("members", [])
        assert isinstance(members, list)
        states = sorted(str(member.get("state")) for member in members)
        roles = {member.get("role") for member in members}
        return states == ["running"] + ["streaming"] * (len(self.nodes) - 1) and "sync_standby" in roles

    async def switch_over(self, leader: Node) -> None:
        """Have the leader hand over to a standby, in order."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{leader.api}/switchover", json.dumps({"leader": leader.name}).encode()
        )
        give_up = time.monotonic() + LONGEST_STEP
        while True:
            try:
                await asyncio.to_thread(_read, asked, 60)
            except urllib.error.HTTPError as error:
                # 412: what it sees, etcd has not been told yet.
                if error.code != http.HTTPStatus.PRECONDITION_FAILED or time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.2)
            else:
                return


@contextmanager
def cluster(nodes: int = 2) -> Iterator[Cluster]:
    """Running until the block ends, with synchronous replication."""
    patroni, etcd = programs()
    with TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        account = account_for(directory / "none", binaries() / "postgres")
        account.own(directory)
        ports = free_ports(2 + 2 * nodes)
        password = secrets.token_urlsafe(12)
        made = []
        for number in range(nodes):
            node = Node(
                f"node{number}", ports[2 + number], ports[2 + nodes + number], directory / f"node{number}"
            )
            node.directory.mkdir()
            account.own(node.directory)
            settings = _settings(node, ports[0], password)
            (node.directory / "patroni.json").write_text(json.dumps(settings))
            (node.directory / "patroni.json").chmod(0o644)
            made.append(node)

        def spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return account.spawn(command, output)

        running = Cluster(made, password, patroni, directory, spawn)
        (directory / "etcd").mkdir(mode=0o700)
        account.own(directory / "etcd")
        client, peer = (f"http://127.0.0.1:{port}" for port in ports[:2])
        running.etcd = spawn(_etcd(etcd, directory / "etcd", client, peer), directory / "etcd.log")
        try:
            for node in made:
                running.start(node)
            yield running
        finally:
            for node in made:
                if node.process:
                    node.process.kill()
                    node.process.wait()
                if (postmaster := node.postmaster) is not None:
                    with suppress(ProcessLookupError):
                        os.kill(postmaster, signal.SIGQUIT)
            running.etcd.kill()
            running.etcd.wait()


def _etcd(program: str, data: Path, client: str, peer: str) -> list[str]:
    options = {
        "data-dir": str(data),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }
    return [program, *(f"--{name}={value}" for name, value in options.items())]


def _settings(node: Node, etcd: int, password: str) -> dict[str, object]:
    login = {"username": "postgres", "password": password}
    return {
        "scope": SCOPE,
        "name": node.name,
        "restapi": {"listen": f"127.0.0.1:{node.api}", "connect_address": f"127.0.0.1:{node.api}"},
        "etcd3": {"hosts": f"127.0.0.1:{etcd}"},
        "bootstrap": {
            "dcs": {
                "ttl": TTL,
                "loop_wait": LOOP_WAIT,
                "retry_timeout": 3,
                "synchronous_mode": True,
                "maximum_lag_on_failover": 1_000_000,
                "postgresql": {
                    "use_pg_rewind": True,
                    "parameters": {"max_connections": 60, "wal_log_hints": "on"},
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
            "pg_hba": [
                "host all all 127.0.0.1/32 scram-sha-256",
                "host replication all 127.0.0.1/32 scram-sha-256",
                "local all all trust",
            ],
        },
        "postgresql": {
            "listen": f"127.0.0.1:{node.port}",
            "connect_address": f"127.0.0.1:{node.port}",
            "data_dir": str(node.directory / "data"),
            "bin_dir": str(binaries()),
            "pgpass": str(node.directory / "pgpass"),
            "authentication": {"superuser": login, "replication": login, "rewind": login},
            "parameters": {"unix_socket_directories": str(node.directory), "fsync": "off"},
        },
    }


def _read(request: urllib.request.Request | str, timeout: float) -> bytes:
    with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - of this machine
        body: bytes = answer.read()
        return body


def _get(url: str) -> dict[str, object]:
    said: dict[str, object]
    try:
        said = json.loads(_read(url, 2))
    except urllib.error.HTTPError as error:
        with suppress(ValueError):
            said = json.load(error)
            return said
    except (OSError, ValueError):
        pass
    else:
        return said
    return {}


@contextmanager
def behind_haproxy(servers: Cluster, *, shuts_sessions: bool) -> Iterator[int]:
    """HAProxy as Patroni's documentation has it; gives the port that leads to the primary."""
    (port,) = free_ports(1)
    ends = "on-marked-down shutdown-sessions" if shuts_sessions else ""
    lines = [
        "defaults\n mode tcp\n retries 2\n timeout client 30m\n timeout connect 4s\n timeout server 30m",
        " timeout check 5s\nlisten primary",
        f" bind 127.0.0.1:{port}\n option httpchk OPTIONS /primary\n http-check expect status 200",
        f" default-server inter 1s fall 2 rise 1 {ends}",
        *(f" server {node.name} 127.0.0.1:{node.port} check port {node.api}" for node in servers.nodes),
    ]
    configuration = servers.logs / "haproxy.cfg"
    configuration.write_text("\n".join(lines) + "\n")
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    with subprocess.Popen([program, "-db", "-f", str(configuration)]) as balancer:
        try:
            yield port
        finally:
            balancer.kill()
