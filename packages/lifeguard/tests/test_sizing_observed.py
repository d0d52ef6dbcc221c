"""What `sizing --from` makes of a running service, and of what is none."""

import asyncio
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from fastapi import APIRouter
from lifeguard.operations.sizing import NotObserved, asked_of, observe
from lifeguard.testing.servers import PostgresServer
from lifeguard.testing.serving import Service
from lifeguard.web import ConnectionDep, lane
from typer.testing import CliRunner, Result

from packages.lifeguard.tests.inside import service, settings_for
from packages.lifeguard.tests.sample.commands import cli

slow = APIRouter(dependencies=[lane("slow", at_most=2)])
HOLD = 0.02


@slow.get("/slow")
async def hold(connection: ConnectionDep) -> None:
    await connection.execute("SELECT pg_sleep($1)", HOLD)


def address(running: Service) -> str:
    return str(running.client.base_url)


def sizing(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sizing", *arguments])


async def requests(running: Service, number: int) -> None:
    for _ in range(number):
        (await running.client.get("/slow")).raise_for_status()


async def test_measures_rate_hold_time_pool_and_lanes(database_url: str) -> None:
    """Requests come between its two looks; those before are not counted."""
    async with service(settings_for(database_url, pool_max_size=7), routes=slow) as running:
        await requests(running, 3)
        loop = asyncio.get_running_loop()

        def load(_: float) -> None:
            asyncio.run_coroutine_threadsafe(requests(running, 5), loop).result()

        observed = await asyncio.to_thread(partial(observe, address(running), 1, pause=load))
        stats = running.state["database"].primary.stats()
    assert (observed.pool, observed.min_size, observed.max_size) == ("primary", 1, 7)
    assert HOLD / 2 < observed.hold <= stats.use.sum / 5
    assert observed.in_use == observed.rate * observed.hold > 0
    assert ("slow", 2, {}) in [(one.name, one.at_most, one.shed) for one in observed.lanes]


async def test_since_it_began_it_says_what_the_pool_has_counted(database_url: str) -> None:
    async with service(settings_for(database_url), routes=slow) as running:
        await requests(running, 4)
        pool = running.state["database"].primary
        before = pool.stats().use
        observed = await asyncio.to_thread(observe, address(running), 0)
        after = pool.stats().use  # the service looks at its database by itself, too
        ended = await asyncio.to_thread(
            sizing, "--from", address(running), "--seconds", "0", "--replicas", "3", "--cores", "64"
        )
    assert before.sum / after.count <= observed.hold * 1.001
    assert observed.hold <= after.sum / before.count * 1.001
    assert ended.exit_code == 0
    assert "pool primary, since the process began: " in ended.stdout
    assert "(now 5)" in ended.stdout
    assert "lane slow: 0 of at most 2 in use, 0 waiting, 0 refused" in ended.stdout


async def test_what_is_said_goes_before_what_is_measured(database_url: str) -> None:
    """The rate of one process counts for all."""
    async with service(settings_for(database_url), routes=slow) as running:
        await requests(running, 2)
        given: dict[str, object] = {"replicas": 2, "workers": 3}
        measured, observed = await asyncio.to_thread(asked_of, given, address(running), "0")
        planned, seen = await asyncio.to_thread(asked_of, {"rps": 1234}, address(running), "0")
    assert observed is not None
    assert measured.rps == pytest.approx(6 * observed.rate)
    assert measured.hold_ms == pytest.approx(observed.hold * 1000)
    assert seen is not None
    assert planned.rps == 1234
    assert planned.hold_ms == pytest.approx(seen.hold * 1000)


def assert_one_line(ended: Result, said: str) -> None:
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert said in ended.stderr


def answer(body: bytes, status: str = "200 OK", kind: str = "text/plain") -> bytes:
    return f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\n\r\n".encode() + body


BEGUN = "process_start_time_seconds"
USE, WAIT = "db_client_connection_use_time_seconds", "db_client_connection_wait_time_seconds"
POOL = 'db_client_connection_pool_name="primary"'


def metrics(**changed: str) -> bytes:
    lines = {
        "begun": f"{BEGUN} 5",
        "uses": f"{USE}_count{{{POOL}}} 10",
        "held": f"{USE}_sum{{{POOL}}} 1.5",
        "waits": f"{WAIT}_count{{{POOL}}} 10",
        "waited": f"{WAIT}_sum{{{POOL}}} 0.5",
        "bucket": f'{WAIT}_bucket{{{POOL},le="0.1"}} 10',
        **changed,
    }
    return answer("".join(f"{line}\n" for line in lines.values() if line).encode())


PAGE = answer(
    b'{"pools": [{"stats": {"name": "primary", "min_size": 1, "max_size": 5, "shed": {}, "lanes": []}}]}'
)


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives one answer after the other, the last one again and again; its URL."""
    left = list(answers)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65_536)
            self.request.sendall(left.pop(0) if len(left) > 1 else left[0])

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((answer(b"# Hello\n"),), f"is no service of this kind: /metrics has no {USE}"),
        ((answer(b""),), "is no service of this kind"),
        ((answer(b"<html>{]}", kind="text/html"),), "/metrics cannot be read"),
        ((answer(b"", "404 Not Found"),), "404 Not Found; with OPS_PORT it is on that port"),
        ((answer(b"", "503 Service Unavailable"),), "503 Service Unavailable"),
        ((answer(b"\xff\xfe"),), "its answer is no text"),
        ((b"",), "Remote end closed connection"),
        ((b"SSH-2.0-OpenSSH_9.2p1\r\n",), "SSH-2.0-OpenSSH_9.2p1"),
        ((metrics(held=""),), f"/metrics has no {USE}"),
        ((metrics(uses=f"{USE}_count 10"),), "/metrics cannot be read"),
        ((metrics(begun=""),), "does not say when it began"),
        ((metrics(), answer(b"{}")), "/pool has no statistics of pools"),
        ((metrics(), answer(b"[" * 100_000)), "/pool has no statistics of pools"),
        ((metrics(), answer(b'{"pools": []}')), "/pool has no statistics of pools"),
        ((metrics(), answer(b"", "404 Not Found")), "/pool: 404 Not Found"),
        ((metrics(held=f"{USE}_sum{{{POOL}}} NaN"),), "cannot be read"),
        ((metrics(uses=f"{USE}_count{{{POOL}}} +Inf"),), "cannot be read"),
        ((metrics(held=f"{USE}_sum{{{POOL}}} 1e300"), PAGE), "--hold-ms=1e+302: must be a number"),
    ],
    ids=[f"{number}" for number in range(18)],
)
def test_what_is_no_service_of_this_kind_is_one_line(answers: tuple[bytes, ...], said: str) -> None:
    with answering(*answers) as url:
        assert_one_line(sizing("--from", url, "--seconds", "0"), said)


def test_a_service_that_idles_says_nothing_of_its_load() -> None:
    with (
        answering(metrics()) as url,
        pytest.raises(
            NotObserved, match="in 1 s nobody has borrowed a connection; ask while it has its load"
        ),
    ):
        observe(url, 1, pause=lambda _: None)


def test_a_service_that_hardly_does_anything_is_measured() -> None:
    """Ten requests since 1970."""
    with answering(metrics(), PAGE) as url:
        ended = sizing("--from", url, "--seconds", "0")
    assert (ended.exit_code, ended.stderr) == (0, "")


def test_an_answer_without_end_is_given_up() -> None:
    with answering(answer(b"x" * (9 * 2**20))) as url:
        assert_one_line(sizing("--from", url), "its answer does not end")


def test_answers_of_two_processes_are_not_compared() -> None:
    with (
        answering(metrics(), metrics(begun=f"{BEGUN} 6")) as url,
        pytest.raises(NotObserved, match="two processes have answered"),
    ):
        observe(url, 1, pause=lambda _: None)


@pytest.mark.parametrize(
    "url",
    ["ftp://x", "http://", "http://host:port", "http://user:secret@host:1", "//", "", "http://[::1", "x y"],
)
def test_what_is_no_url_is_one_line(url: str) -> None:
    ended = sizing("--from", url)
    assert_one_line(ended, "")
    assert "secret" not in ended.stderr


def test_a_database_is_no_service(postgres: PostgresServer) -> None:
    assert_one_line(sizing("--from", f"127.0.0.1:{postgres.port}", "--seconds", "0"), "")
