"""What `deploy.end_to_end` uses: docker-compose.yml and the scripts beside it, in a copy of the checkout.

A copy, because a release writes files, and because some of what is tried there is broken on purpose.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE, STDOUT, run
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from bench.rolling.clients import Crowd

ROOT = Path(__file__).parents[1]
PROJECT = "lifeguard-end-to-end"
PORT, PROMETHEUS_PORT = 18000, 19090
PATIENCE = 90.0
"""Seconds for anything that is waited for."""


class Failure(Exception):
    """What is not as it should be, in a line."""


def expect(*, true: bool, otherwise: str) -> None:
    if not true:
        raise Failure(otherwise)


@dataclass(slots=True)
class Stack:
    """What docker-compose.yml describes, under a name and on ports of its own."""

    compose: Sequence[str]
    directory: Path
    """The copy of the checkout."""
    variables: dict[str, str] = field(
        default_factory=lambda: {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "DOCKER_BUILDKIT": "1",
            "LIFEGUARD_ADDRESS": f"127.0.0.1:{PORT}",
            "LIFEGUARD_PROMETHEUS_PORT": str(PROMETHEUS_PORT),
            "LIFEGUARD_IMAGE": f"{PROJECT}:latest",
        }
    )

    async def __call__(self, *arguments: str) -> str:
        return await self.run(*self.compose, *arguments)

    async def run(self, *command: str, code: int = 0, **variables: str) -> str:
        """Give what the command says. Raises Failure with it where the exit code is another."""
        process = await self.start(*command, **variables)
        output, _ = await process.communicate()
        text = output.decode().strip()
        expect(
            true=process.returncode == code, otherwise=f"{' '.join(command)}: {process.returncode}\n{text}"
        )
        return text

    async def start(self, *command: str, **variables: str) -> asyncio.subprocess.Process:
        """In a session of its own, as from a terminal of its own."""
        environment = {**os.environ, **self.variables, **variables}
        return await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            cwd=self.directory,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )

    def commit(self, path: str, old: str, new: str) -> None:
        """Change a file of the copy."""
        file = self.directory / path
        text = file.read_text(encoding="utf-8")
        expect(true=old in text, otherwise=f"{path} has no {old!r}")
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        _git(self.directory, "commit", "--quiet", "--all", "--message", f"{path}: {new}")

    def version(self) -> str:
        """What `deploy/rolling-update` calls the commit of the copy."""
        return _git(self.directory, "rev-parse", "--short=12", "HEAD")

    async def versions(self) -> list[str]:
        """What each replica says of itself."""
        ask = Path("deploy/ask_replica.py").read_text  # the scripts' own question
        return [
            await self.run("docker", "exec", replica, "python", "-c", ask(encoding="utf-8"))
            for replica in await self.replicas()
        ]

    async def replicas(self) -> list[str]:
        return await self.containers("app")

    async def containers(self, service: str) -> list[str]:
        """Those that run."""
        return (await self.run("docker", "ps", "--quiet", "--no-trunc", *self._of(service))).split()

    async def sql(self, query: str, server: str = "postgres") -> str:
        psql = ("psql", "--username=postgres", "--dbname=ledger", "--tuples-only", "--no-align")
        return await self("exec", "-T", server, *psql, "--command", query)

    async def sessions(self, where: str, server: str = "postgres") -> int:
        return int(await self.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {where}", server))  # noqa: S608 - ours

    async def serving(self) -> int:
        return int((await self.balancer())["haproxy_backend_active_servers"])

    async def balancer(self) -> dict[str, float]:
        """HAProxy's own numbers about the service."""
        fetch = r"exec 3<>/dev/tcp/127.0.0.1/8405; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3"
        label = '{proxy="service"}'
        haproxy, *_ = await self.containers(
            "haproxy"
        )  # by docker: compose refuses while a release is under way
        lines = (await self.run("docker", "exec", haproxy, "bash", "-c", fetch)).splitlines()
        return {name.removesuffix(label): float(value) for name, value in _samples(lines) if label in name}

    @staticmethod
    def _of(service: str) -> tuple[str, ...]:
        labels = (f"project={PROJECT}", f"service={service}")
        return tuple(part for label in labels for part in ("--filter", f"label=com.docker.compose.{label}"))


def _samples(lines: list[str]) -> list[tuple[str, str]]:
    parts = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return [(name, value) for name, _, value in parts if name.startswith("haproxy_")]


async def until(happened: Callable[[], Awaitable[bool]], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not await happened():
        expect(true=time.monotonic() < give_up, otherwise=f"not within {PATIENCE:g} s: {what}")
        await asyncio.sleep(0.2)


async def take_down(stack: Stack) -> None:
    """A script that a step has left at work ends first."""

    async def taken_down() -> bool:
        try:
            await stack.run("deploy/down", "--volumes")
        except Failure as failure:
            if "is at work" not in str(failure):
                raise
            return False
        return True

    await until(taken_down, "the script that is at work ends")


async def until_serving(stack: Stack, count: int) -> None:
    async def so_many() -> bool:
        return await stack.serving() == count

    await until(so_many, f"{count} replicas behind HAProxy")


@asynccontextmanager
async def step(name: str, crowd: Crowd | None = None, *, may_fail_for: float = 0.0) -> AsyncIterator[None]:
    """Print a line. Raises Failure when clients lost requests later than `may_fail_for` seconds."""
    began = time.monotonic()
    yield
    line = f"{name:<45} {time.monotonic() - began:5.1f} s"
    if crowd:
        asked = sum(due >= began for due, _ in crowd.log.latencies)
        failures = [(when - began, what) for when, what in crowd.log.failures if when >= began]
        late = [f"{what} after {after:.1f} s" for after, what in failures if after > may_fail_for]
        expect(true=not late, otherwise=f"{name}: lost requests: {'; '.join(late[:10])}")
        line += f"  {asked:>5} requests, {len(failures)} failed"
    print(line, flush=True)


def copy_checkout(to: Path) -> None:
    """Copy what git would have: as it is here, committed or not, in a repository of its own."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, to / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    for command in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "As it is")):
        _git(to, *command)


def _git(directory: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=end to end", "-c", "user.email=end@to.end")
    command = ("git", *identity, *arguments)
    return run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.strip()
