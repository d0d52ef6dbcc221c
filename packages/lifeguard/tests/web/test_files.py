"""What happens when the process may open no more files: nobody new is let in, and it goes on."""

import asyncio
import contextlib
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lifeguard.testing.processes import running
from lifeguard.testing.servers import unused_port
from lifeguard.testing.waiting import eventually

ROOM = 12
"""Connections that find a file when the service has begun."""
SERVICE = f"""
import os, resource
from lifeguard.server import connection
from packages.lifeguard.tests.sample.commands import cli

most_connections = connection.most_connections

def bound() -> int:  # asked when the first connection is there
    global bound
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + {ROOM}, used + {ROOM}))
    connection.most_connections = lambda: 1000  # or it would never come to that
    return 1000

connection.most_connections = bound
cli(["serve"])
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the kernel what is open")


async def test_the_process_serves_on_when_files_are_free_again(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": f"postgresql://nobody@127.0.0.1:{unused_port()}/x", "LOG_LEVEL": "critical"}
    async with running(["-c", SERVICE], cwd=tmp_path, variables=variables) as process:
        where = urlsplit(process.url)
        assert where.hostname
        files = Path(f"/proc/{process.process.pid}/fd")
        before = len(list(files.iterdir()))
        with contextlib.ExitStack() as clients:
            for _ in range(5 * ROOM):
                clients.enter_context(socket.create_connection((where.hostname, where.port)))
            await eventually(lambda: len(list(files.iterdir())) >= before + ROOM - 2)
            await asyncio.sleep(0)
            assert process.process.poll() is None
        await eventually(lambda: process.answers("/healthz"))
