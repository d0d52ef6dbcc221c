"""The scripts that look for a service's knee find it."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi import APIRouter
from hypothesis import given
from hypothesis import strategies as st
from lifeguard.web import ConnectionDep

from deploy.load.asking import Asker
from deploy.load.knee import REFINEMENTS, Ladder, Limits, Step
from tests.inside import service, settings_for

ROOT = Path(__file__).parents[2]
LIMITS = Limits(p95=0.25, p99=0.5, errors=0.01)
CAPACITY = 80
SHORT = ("--start", "30", "--factor", "4", "--seconds", "1", "--pause", "0.2")

work = APIRouter()


@work.get("/work")
async def keep_one_of_two_connections(connection: ConnectionDep) -> bool:
    await connection.fetchval("SELECT pg_sleep($1)", 2 / CAPACITY)
    return True


async def find_knee(url: str, *options: str) -> tuple[int | None, str]:
    """Run the script to its end: the exit code and what it said."""
    command = [sys.executable, "-m", "deploy.load.knee", url, *options]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


@pytest.mark.slow
async def test_finds_the_knee_of_a_real_service(database_url: str) -> None:
    settings = settings_for(database_url, pool_max_size=2)
    async with service(settings, routes=work) as running:
        url = f"{running.client.base_url}/work"
        code, said = await find_knee(url, *SHORT, "--p95", "4", "--p99", "4", "--errors", "0.05")
        knees = re.findall(r"^knee: ([\d.]+) requests/s", said, re.MULTILINE)
        assert knees, said
        assert CAPACITY / 3 <= float(knees[0]) <= CAPACITY * 1.6, said
        assert code == 0, said


@pytest.mark.parametrize(
    ("path", "code", "verdict"),
    [
        ("healthz", 0, "knee: not found; 40.0 requests/s"),
        ("nowhere", 1, "knee: below the first rate; 20.0/s is too much already (errors 100.0% > 1.0%)"),
    ],
)
async def test_says_when_there_is_no_knee(database_url: str, path: str, code: int, verdict: str) -> None:
    async with service(settings_for(database_url)) as running:
        url = f"{running.client.base_url}/{path}"
        options = (
            "--start",
            "20",
            "--factor",
            "2",
            "--most",
            "40",
            "--seconds",
            "0.2",
            "--p95",
            "5",
            "--p99",
            "5",
        )
        found, said = await find_knee(url, *options)
    assert verdict in said
    assert found == code


async def test_refuses_what_is_no_url() -> None:
    code, said = await find_knee("localhost:8000")
    assert code == 1
    assert said == "not a URL of http:// or https://: localhost:8000\n"


ANSWERS = {
    "with a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200", True),
    "in chunks": (
        b"HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nabc\r\n0\r\nA: b\r\n\r\n",
        "404",
        True,
    ),
    "without a body": (b"HTTP/1.1 204 No Content\r\n\r\n", "204", True),
    "after an interim one": (b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 304 Same\r\n\r\n", "304", True),
    "that closes": (b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "503", False),
    "up to the end": (b"HTTP/1.0 200 OK\r\n\r\nok", "200", False),
    "broken off": (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok", "IncompleteReadError", False),
    "that is none": (b"SSH-2.0-x\r\n\r\n", "ValueError", False),
    "never": (b"", "TimeoutError", False),
}


@pytest.mark.parametrize(("answer", "outcome", "kept"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_is_read_to_its_end(answer: bytes, outcome: str, kept: bool) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                if not kept and answer:
                    break
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asker = Asker("GET", f"http://127.0.0.1:{port}/a?b=c", timeout=5 if answer else 0.05)
        assert [await asker.ask(), await asker.ask()] == [outcome, outcome]
        asker.close()
    assert connections == (1 if kept else 2)


def step(rate: float, p99: float = 0.1, errors: float = 0.0) -> Step:
    return Step(rate, 100, p99 / 4, p99 * 0.45, p99, errors, late_p90=0.0, outcomes={})


@given(knee=st.floats(10, 2000), start=st.floats(1, 10), factor=st.floats(1.1, 4))
def test_the_ladder_narrows_the_knee_down(knee: float, start: float, factor: float) -> None:
    ladder = Ladder(start, factor, most=10_000)
    while ladder.next is not None:
        ladder.climb(step(ladder.next, errors=float(ladder.next > knee)), LIMITS)
    assert ladder.good
    assert ladder.broken
    assert ladder.good.rate <= knee <= ladder.broken.rate
    assert ladder.broken.rate - ladder.good.rate <= knee * (factor - 1) / 2**REFINEMENTS * (1 + 1e-9)


@pytest.mark.parametrize(
    ("measured", "broken"),
    [
        (step(1, p99=0.5, errors=0.01), ""),
        (step(1, p99=0.51), "p99 510 ms > 500 ms"),
        (step(1, p99=0.6), "p95 270 ms > 250 ms, p99 600 ms > 500 ms"),
        (step(1, errors=0.02), "errors 2.0% > 1.0%"),
    ],
)
def test_a_step_says_which_limit_broke(measured: Step, broken: str) -> None:
    assert measured.broken(LIMITS) == broken


NODE = """
globalThis.__ENV = {START: '10', FACTOR: '2', STEPS: '4'};
const {options, handleSummary} = await import(process.argv[1]);
const metrics = {};
for (const [rate, count, ok] of [[10, 100, true], [20, 200, true], [40, 400, false], [80, 0, true]]) {
  const name = `http_req_duration{scenario:rate_${rate}}`;
  const thresholds = Object.fromEntries(options.thresholds[name].map(({threshold}) => [threshold, {ok}]));
  metrics[name] = {values: {count, med: 1, 'p(95)': 2, 'p(99)': 3}, thresholds};
}
console.log(JSON.stringify({scenarios: options.scenarios, said: handleSummary({metrics}).stdout}));
"""


@pytest.mark.deploy
def test_the_k6_script_steps_up_and_names_the_last_good_rate(tmp_path: Path) -> None:
    """In Node, without k6: its syntax, its scenarios, and what it makes of k6's summary."""
    node = shutil.which("node")
    assert node, "needs Node (Debian: apt install nodejs)"
    script = (ROOT / "deploy/load/knee.js").read_text(encoding="utf-8")
    module = tmp_path / "knee.mjs"
    module.write_text(script.replace("import http from 'k6/http';", ""))
    command = [node, "--input-type=module", "--eval", NODE, str(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    scenarios = list(answer["scenarios"].values())
    assert [scenario["rate"] for scenario in scenarios] == [10, 20, 40, 80]
    assert [scenario["startTime"] for scenario in scenarios] == ["0s", "25s", "50s", "75s"]
    assert answer["said"].endswith("knee: 20 requests/s\n")
    assert "40/s" in answer["said"]
    assert "80/s" not in answer["said"]
