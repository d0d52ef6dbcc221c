"""SIGTERM and Ctrl-C: service goes on while load balancers notice, then the process comes to its end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx
import pytest
from lifeguard.database import CallScope, call_scope
from lifeguard.server.signals import ECHO, StopSignals
from lifeguard.testing.clients import plain_client
from lifeguard.testing.processes import ServiceProcess, running
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.waiting import eventually
from lifeguard.web.drain import Drain

from packages.lifeguard.tests.checkout import ROOT

pytestmark = pytest.mark.slow  # real processes, real delays

# `held` as the command line, `uvicorn` and `fastapi run` start it, without a shell in
# between that would swallow signals.
SERVE = (
    "from lifeguard.commands import command_line\n"
    "from packages.lifeguard.tests.sample.settings import Settings\n"
    "from packages.lifeguard.tests import held\n"
    "command_line(lambda settings: held.app, Settings)(['serve'])"
)
DEV = """
from packages.lifeguard.tests.sample.main import create_app
from packages.lifeguard.tests.sample.settings import Settings
from lifeguard.commands import command_line
from lifeguard.development import run
from packages.lifeguard.tests import held

def with_held(settings):
    service = create_app(settings)
    service.post("/test/held")(held.held)
    return service

run.LONGEST_DRAIN = 0.3
command_line(with_held, Settings)(["dev"])
"""
UVICORN = (
    "import os, uvicorn\nuvicorn.main(['packages.lifeguard.tests.held:app', '--port', os.environ['PORT']])"
)
FASTAPI = f"from fastapi_cli.cli import app; app(['run', {str(ROOT / 'packages/lifeguard/tests/held.py')!r}])"
WORKERS = UVICORN.replace("app',", "app', '--workers', '2',")
WAYS = {"serve": SERVE, "uvicorn": UVICORN, "fastapi run": FASTAPI}

LONG_ECHO = "from lifeguard.server import signals\nsignals.ECHO = 60\n"
"""Before a program: a second signal is the first one's echo however slow the machine is."""

DELAY = 4.0
"""Seconds; long enough for a slow machine to see what happens in them."""


@dataclass
class Held:
    """A service whose requests to `/test/held` last until `let_go()`; it lends one connection."""

    service: ServiceProcess
    client: httpx.AsyncClient
    lock: asyncpg.Connection

    async def request(self) -> httpx.Response:
        return await self.client.post("/test/held")

    async def has(self, *, used: int, waiting: int) -> bool:
        """Whether so many requests have a connection and so many wait for one; for `eventually`."""
        [pool] = (await self.client.get("/pool")).json()["pools"]
        return (pool["stats"]["used"], pool["stats"]["waiting"]) == (used, waiting)

    async def let_go(self) -> None:
        await self.lock.execute("SELECT pg_advisory_unlock_all()")

    async def stop(self) -> None:
        """Send SIGTERM and wait until readiness says so, which nobody would hear after the delay."""
        self.service.process.send_signal(signal.SIGTERM)
        await eventually(lambda: self.service.answers("/readyz", 503))

    async def exit_code(self) -> int:
        await eventually(lambda: self.service.process.poll() is not None)
        return self.service.process.returncode


@asynccontextmanager
async def held(
    database: str, directory: Path, program: str = SERVE, *, delay: float = DELAY, timeout: float = 20
) -> AsyncIterator[Held]:
    variables = {
        "DATABASE_URL": database,
        "DRAIN_DELAY": str(delay),
        "DRAIN_TIMEOUT": str(timeout),
        "POOL_MIN_SIZE": "1",
        "POOL_MAX_SIZE": "1",
        "POOL_QUEUE_TARGET": "0",
        "LOCK_TIMEOUT": "10",
        "LOG_FORMAT": "json",
    }
    async with running(["-c", program], cwd=directory, variables=variables) as service:
        await eventually(lambda: service.answers("/readyz"))
        lock = await asyncpg.connect(database)
        try:
            await lock.execute("SELECT pg_advisory_lock(42)")
            async with plain_client(service.url) as client:
                yield Held(service, client, lock)
        finally:
            await lock.close()


@pytest.mark.parametrize("program", WAYS.values(), ids=WAYS)
class TestTheEnd:
    async def test_loses_nothing_and_is_no_failure(
        self, program: str, migrated_database: str, tmp_path: Path, postgres: PostgresServer
    ) -> None:
        async with held(migrated_database, tmp_path, program) as service:
            under_way = asyncio.create_task(service.request())
            await eventually(lambda: service.has(used=1, waiting=0))
            queued = asyncio.create_task(service.request())
            await eventually(lambda: service.has(used=1, waiting=1))
            stopped_at = time.monotonic()
            await service.stop()
            kept_alive = await service.client.get("/healthz")
            fresh = await service.service.get("/healthz")
            for answer in (kept_alive, fresh):
                assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            late = asyncio.create_task(service.request())
            await eventually(lambda: service.has(used=1, waiting=2))
            await eventually(lambda: service.service.refuses("/healthz"))
            assert time.monotonic() - stopped_at >= DELAY
            await service.let_go()
            for request in (under_way, queued, late):
                assert (await request).json() == "done"
            assert await service.exit_code() == 0
            assert await self.sessions(postgres, migrated_database) == []

    async def sessions(self, postgres: PostgresServer, database: str) -> list[asyncpg.Record]:
        async with postgres.connect() as admin:
            query = "SELECT query FROM pg_stat_activity WHERE application_name ^@ 'ledger' AND datname = $1"
            return list(await admin.fetch(query, database.rpartition("/")[2]))

    async def test_comes_at_once_at_a_second_signal(
        self, program: str, migrated_database: str, tmp_path: Path
    ) -> None:
        async with held(migrated_database, tmp_path, program, delay=60) as service:
            request = asyncio.create_task(service.request())
            await eventually(lambda: service.has(used=1, waiting=0))
            await service.stop()
            await asyncio.sleep(ECHO)  # before that it would be the first one again
            assert await service.service.end(signal.SIGTERM) == 128 + signal.SIGTERM
            with pytest.raises(httpx.TransportError):
                await request

    async def test_is_not_hastened_by_a_supervisor_that_passes_the_signal_on(
        self, program: str, migrated_database: str, tmp_path: Path
    ) -> None:
        async with held(migrated_database, tmp_path, LONG_ECHO + program, delay=0) as service:
            request = asyncio.create_task(service.request())
            await eventually(lambda: service.has(used=1, waiting=0))
            for _ in range(2):
                service.service.process.send_signal(signal.SIGTERM)
                await eventually(lambda: service.service.refuses("/healthz"))
            await service.let_go()
            assert (await request).json() == "done"
            assert await service.exit_code() == 0


class TestExitCode:
    async def test_is_0_however_late_the_signal_comes_again(
        self, migrated_database: str, tmp_path: Path
    ) -> None:
        async with held(migrated_database, tmp_path, LONG_ECHO + SERVE, delay=0) as service:

            async def signalled_again_at_its_end() -> bool:
                service.service.process.send_signal(signal.SIGTERM)
                return service.service.process.poll() is not None

            await eventually(signalled_again_at_its_end, interval=0.002)
            assert service.service.process.returncode == 0

    @pytest.mark.parametrize(
        ("program", "timeout", "said"),
        [
            (SERVE, 0.3, "DRAIN_TIMEOUT=0.3 was too short: requests cut off: 2"),
            (DEV, 20, "`make run` allows 0.3 s, which was too short: requests cut off: 2"),
        ],
        ids=["serve", "dev"],
    )
    async def test_is_1_when_requests_were_cut_off_and_their_number_is_said(
        self, migrated_database: str, tmp_path: Path, program: str, timeout: float, said: str
    ) -> None:
        async with held(migrated_database, tmp_path, program, delay=0, timeout=timeout) as service:
            requests = [asyncio.create_task(service.request()) for _ in range(2)]
            await eventually(lambda: service.has(used=1, waiting=1))
            assert await service.service.end(signal.SIGTERM) == 1
            assert said in service.service.output
            assert "Waiting for connections to close." in service.service.output
            assert "to force quit" not in service.service.output  # not so soon after the first signal
            assert "Traceback" not in service.service.output
            assert {(await request).status_code for request in requests} == {503}


class TestDelay:
    async def test_is_none_unless_asked_for(self, migrated_database: str, tmp_path: Path) -> None:
        async with held(migrated_database, tmp_path, delay=0) as service:
            assert await service.service.end(signal.SIGINT) == 0
            lines = [json.loads(line) for line in service.service.output.splitlines()]
            assert [line["delay"] for line in lines if line["event"] == "draining"] == [0]

    async def test_ends_streams_at_its_beginning(self, migrated_database: str, tmp_path: Path) -> None:
        async with (
            held(migrated_database, tmp_path) as service,
            service.client.stream("GET", "/pool/live/events") as stream,
        ):
            lines = stream.aiter_lines()
            assert await anext(lines) == "retry: 2000"
            await service.stop()
            async for _ in lines:
                pass
            assert await service.service.answers("/healthz")

    async def test_comes_before_the_time_to_finish(self, migrated_database: str, tmp_path: Path) -> None:
        async with held(migrated_database, tmp_path) as service:
            await service.stop()
            assert await service.exit_code() == 0
            lines = [json.loads(line) for line in service.service.output.splitlines()]
            [draining] = [line for line in lines if line["event"] == "draining"]
            assert (draining["delay"], draining["timeout"]) == (DELAY, 20)

    async def test_of_a_worker_survives_the_signal_that_its_supervisor_passes_on(
        self, migrated_database: str, tmp_path: Path
    ) -> None:
        """Ctrl-C reaches all processes of a terminal, and the supervisor sends them SIGTERM then."""
        async with held(migrated_database, tmp_path, WORKERS) as service:
            request = asyncio.create_task(service.request())
            await eventually(lambda: service.service.output.count("startup complete") == 2)
            workers = re.findall(r"Started server process \[(\d+)\]", service.service.output)
            for process in (*workers, service.service.process.pid):
                os.kill(int(process), signal.SIGINT)
            await eventually(lambda: service.service.output.count("Terminated child process") == 2)
            await service.let_go()
            assert (await request).json() == "done"
            assert await service.exit_code() == 0


class TestHandlers:
    @pytest.fixture
    def told(self) -> Iterator[list[int]]:
        """What the handlers of a server have been told."""
        told: list[int] = []
        before = {
            number: signal.signal(number, lambda number, _: told.append(number))
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        yield told
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
    async def test_begin_the_drain_and_tell_the_server_to_end_as_at_ctrl_c(
        self, sign: signal.Signals, told: list[int]
    ) -> None:
        drain = Drain(timeout=1)
        with StopSignals(drain, delay=0):
            signal.raise_signal(sign)
            assert await drain.wait(1)
            assert told == [signal.SIGINT]
        signal.raise_signal(sign)  # once more, from a supervisor, when all is over
        assert told == [signal.SIGINT]

    async def test_tell_the_server_after_the_delay(self, told: list[int]) -> None:
        drain = Drain(timeout=1)
        with StopSignals(drain, delay=0.2):
            started = time.monotonic()
            signal.raise_signal(signal.SIGTERM)
            assert await drain.wait(1)
            assert told == []
            await eventually(lambda: told == [signal.SIGINT])
            assert time.monotonic() - started >= 0.2

    @pytest.mark.usefixtures("told")
    async def test_say_nothing_in_the_name_of_the_request_that_they_interrupt(self) -> None:
        scopes: list[CallScope | None] = []
        signal.signal(signal.SIGTERM, lambda *_: scopes.append(call_scope.get()))
        token = call_scope.set(CallScope(tag="interrupted"))
        try:
            with StopSignals(Drain(timeout=1), delay=0.01):
                signal.raise_signal(signal.SIGTERM)
                await eventually(lambda: scopes)
        finally:
            call_scope.reset(token)
        assert scopes == [None]

    async def test_tell_nobody_when_the_service_has_ended_meanwhile(self, told: list[int]) -> None:
        drain = Drain(timeout=1)
        with StopSignals(drain, delay=0.05):
            signal.raise_signal(signal.SIGTERM)
            assert await drain.wait(1)
        await asyncio.sleep(0.1)  # there is no event to wait for: nothing is what should happen
        assert told == []

    def test_end_the_process_where_no_server_handles_them(self) -> None:
        program = (
            "import asyncio, signal\n"
            "from lifeguard.web.drain import Drain\n"
            "from lifeguard.server.signals import StopSignals\n"
            "async def main():\n"
            "    with StopSignals(Drain(1), 0):\n"
            "        signal.raise_signal(signal.SIGTERM)\n"
            "asyncio.run(main())\n"
        )
        ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30, check=False)
        assert ended.returncode == -signal.SIGTERM

    async def test_are_left_alone_in_a_thread_that_gets_no_signals(self) -> None:
        async def enter() -> object:
            with StopSignals(Drain(timeout=1), 0):
                return signal.getsignal(signal.SIGTERM)

        assert await asyncio.to_thread(asyncio.run, enter()) is signal.getsignal(signal.SIGTERM)

    async def test_leave_a_handler_alone_that_came_later(self) -> None:
        original = signal.getsignal(signal.SIGTERM)
        try:
            with StopSignals(Drain(timeout=1), 0):
                later = signal.SIG_IGN
                signal.signal(signal.SIGTERM, later)
            assert signal.getsignal(signal.SIGTERM) is later
        finally:
            signal.signal(signal.SIGTERM, original)
