"""Starts: a process from `exec` to the first byte of its answer, in processor time."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SMALLEST = Path(__file__).with_name("smallest.py")
IMPORTS = "import fastapi, uvicorn, asyncpg, pydantic_settings"
PATIENCE = 60.0
"""Seconds for one start, on a machine that does other things as well."""
_PAUSE = 0.002  # seconds between two looks whether it listens; they cost the process nothing
_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    command: tuple[str, ...]
    variables: dict[str, str]
    serves: bool = True
    """Else it ends by itself, and what it has used until then is what it costs."""


def contestants(dsn: str) -> tuple[Contestant, ...]:
    service = (sys.executable, "-m", "app", "serve")
    variables = {"DATABASE_URL": dsn, "LOG_FORMAT": "json"}
    # Python's own end, which frees every module, is no part of a start.
    imports = f"import os; {IMPORTS}; os._exit(0)"
    return (
        Contestant("the imports", (sys.executable, "-c", imports), {}, serves=False),
        Contestant("smallest service", (sys.executable, str(SMALLEST), "{port}"), {}),
        Contestant("Lifeguard", service, variables),
        Contestant("Lifeguard, POOL_MIN_SIZE=0", service, {**variables, "POOL_MIN_SIZE": "0"}),
    )


def start(contestant: Contestant) -> float:
    """Seconds of processor time."""
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    process = subprocess.Popen(
        [word.format(port=port) for word in contestant.command],
        env={**environment, **contestant.variables, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    try:
        if contestant.serves:
            _ask(process, port)
            return _used_by(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{contestant.name} has ended with {process.returncode}")
        return usage.ru_utime + usage.ru_stime
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def _ask(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait for the first byte of its first answer."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
                connection.sendall(_REQUEST)
                if connection.recv(12) != b"HTTP/1.1 200":
                    raise RuntimeError("the first answer was no 200")
                return
        except ConnectionRefusedError:
            time.sleep(_PAUSE)
    raise RuntimeError(f"it has not answered; exit code {process.poll()}")


def _used_by(pid: int) -> float:
    """By the process's clock (clock_getcpuclockid(3)), whose number Linux makes of the id."""
    return time.clock_gettime((~pid << 3) | 2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
