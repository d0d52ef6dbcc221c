"""`bench.http`: its clients count every answer once, its ratios are those of a round, all ask the same."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import import_module

import pytest

from bench.http import clients, work
from bench.http.clients import Load
from bench.http.report import Report
from bench.http.trial import BARE, CONNECTIONS, OURS, Contestant, Half, LongRun, Refusals, Turn
from bench.overload.generator import Answers

PART = 7
"""Bytes of an answer that come together."""


@asynccontextmanager
async def server() -> AsyncIterator[int]:
    """Answers 200 in small parts; every fifth request gets a 503 and its connection is closed."""
    served = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        with_close = False
        try:
            while not with_close:
                await reader.readuntil(b"\r\n\r\n")
                served += 1
                with_close = served % 5 == 0
                head = b"503 No\r\nConnection: close" if with_close else b"200 OK"
                told = b"HTTP/1.1 " + head + b"\r\nContent-Length: 4\r\n\r\nbody"
                for begin in range(0, len(told), PART):
                    writer.write(told[begin : begin + PART])
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the clients have left
        finally:
            writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


async def test_clients_count_every_answer_once_however_it_comes() -> None:
    async with server() as port:
        plan = clients.Plan(port, 3, [work.request("GET", "/")], 0, 60, os.getpid(), os.getpid(), most=100)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.http.clients"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate(json.dumps(asdict(plan)).encode())
    load = Load(**json.loads(told))
    assert 100 <= load.answered <= 102
    assert load.statuses["503"] in range(18, 22)
    assert load.statuses["200"] + load.statuses["503"] == load.answered
    assert load.broken == 0
    assert load.other_than(200) == load.statuses["503"]


def loaded(cost: float, *, status: int = 200) -> Load:
    """A second of a thousand answers that took so many microseconds each."""
    return Load(1000, 1.0, {str(status): 1000}, 0, cost / 1000, 0.1, 0.1)


def turn(contestant: Contestant, number: int, cost: float) -> Turn:
    reads = {connections: loaded(cost) for connections in CONNECTIONS}
    half = Half(500, Answers([0.0, 1.0], [0.1, 0.1], [200, 200], [0.0, 0.0], [], began=0.0))
    writes = loaded(cost * 2, status=201)
    return Turn(contestant, number, 1.0, 2**20, reads, writes, half, 2**20)


def test_ratios_are_taken_within_a_round() -> None:
    """In the second round the machine was slow for both: medians of the costs alone would say 0.75."""
    costs = {OURS: (100, 800, 150), BARE: (200, 1600, 200)}
    turns = [turn(who, number, cost) for who, all_of in costs.items() for number, cost in enumerate(all_of)]
    refusals = [
        Refusals(number, loaded(cost / 10), loaded(cost / 5)) for number, cost in enumerate(costs[OURS])
    ]
    report = Report(turns, refusals, [LongRun(OURS, [0, 10, 20], [10, 20, 20], 0, 0.1)])
    ours, bare = report.rows()
    assert (ours.read_us, ours.read_times_bare, bare.read_times_bare) == (150, 0.5, 1)
    assert [round(row.times_served, 3) for row in report.refusal_rows()] == [0.1, 0.2]
    bounds = {(target.promise, target.at): target.met for target in report.targets()}
    assert bounds["cpu of a GET / bare asyncpg.Pool's", "64 connections"]
    assert bounds["memory at the end / after the first tenth", "requests 10 to 20"]
    assert not bounds["answers of another kind than asked for", "all"], "a refusal is a 503"


def test_peers_ask_what_the_ledger_asks() -> None:
    queries = pytest.importorskip("app.ledger.queries", reason="a service may have deleted the ledger")
    assert work.FIND_ACCOUNT == queries._FIND_ACCOUNT
    assert work.OPEN_ACCOUNT == queries._OPEN_ACCOUNT


@pytest.mark.parametrize("peer", ["on_asyncpg", "on_psycopg", "on_sqlalchemy"])
def test_peers_have_the_same_routes_in_all_sizes(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@localhost/nothing")
    module = import_module(f"bench.http.peers.{peer}")
    asked = {("GET", "/v1/accounts/{account_id}"), ("POST", "/v1/accounts")}
    for size in ("bare", "instrumented", "alike"):
        app = getattr(module, size)()
        assert asked <= {
            (method, route.path) for route in app.routes for method in getattr(route, "methods", ())
        }
