"""A service as a process of its own: started as users start it, ended as their platforms end it.

Needs httpx.
"""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from lifeguard.settings import Settings
from lifeguard.testing.clients import plain_client
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

START_TIMEOUT = 120.0  # seconds until one that does not answer fails its test; on a busy machine 10 are usual
END_TIMEOUT = 60.0  # seconds until a process that should have ended fails its test


@dataclass
class ServiceProcess:
    """A running service, where it listens, and the file that its output goes to."""

    process: subprocess.Popen[bytes]
    url: str
    output_file: Path

    @property
    def output(self) -> str:
        return self.output_file.read_text()

    async def get(self, path: str, *, timeout: float = 30) -> httpx.Response:
        async with plain_client(self.url, timeout=timeout) as client:
            return await client.get(path)

    async def answers(self, path: str, status: int = 200) -> bool:
        """Whether it answers `path` with this status now; for `eventually`."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the service ended with {self.process.returncode}: {self.output}")
        try:
            return (await self.get(path, timeout=5)).status_code == status
        except httpx.TransportError:
            return False

    async def refuses(self, path: str) -> bool:
        """Whether it has stopped listening; for `eventually`."""
        try:
            await self.get(path, timeout=5)
        except httpx.ConnectError:
            return True
        except httpx.TransportError:  # it was let in, but no longer served
            return False
        return False

    async def end(self, sign: signal.Signals = signal.SIGINT) -> int:
        """Send the signal and wait for the end; the exit code, negative if a signal was the end."""
        self.process.send_signal(sign)
        await eventually(lambda: self.process.poll() is not None, END_TIMEOUT)
        return self.process.returncode


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with no setting of the engine's but these. What this process can import,
    one with this environment can."""
    ours = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in ours}
    return {**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **variables}


@asynccontextmanager
async def running(
    command: Iterable[str],
    *,
    cwd: Path,
    variables: Mapping[str, str] | None = None,
    probed_on: int | None = None,
    python: Path = Path(sys.executable),
) -> AsyncIterator[ServiceProcess]:
    """A Python process with these arguments and a PORT of its own, once it answers `/healthz`: there, or on
    the port `probed_on`, and a 404 here."""
    port = unused_port()
    output = cwd / f"output-{port}"
    with output.open("wb") as stream:
        process = subprocess.Popen(  # noqa: ASYNC220 - of no consequence for a test
            [python, *command],
            cwd=cwd,
            env=environment(PORT=str(port), **(variables or {})),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    service = ServiceProcess(process, f"http://127.0.0.1:{port}", output)
    try:
        if probed_on:
            probe = ServiceProcess(process, f"http://127.0.0.1:{probed_on}", output)
            await eventually(lambda: probe.answers("/healthz"), START_TIMEOUT)
            await eventually(lambda: service.answers("/healthz", httpx.codes.NOT_FOUND), START_TIMEOUT)
        else:
            await eventually(lambda: service.answers("/healthz"), START_TIMEOUT)
        yield service
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        sys.stdout.write(service.output)  # pytest shows it when the test fails
