"""How requests are begun that are more than the event loop can begin at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from fastapi import APIRouter
from lifeguard.server.line import MOST_A_TURN, Line
from lifeguard.testing.serving import Service
from uvicorn.protocols.http import httptools_impl

from packages.lifeguard.tests.web.test_protocol import Wire, connections, wire

routes = APIRouter(prefix="/line")
NOTED = b"GET /line/%d HTTP/1.1\r\nHost: x\r\n\r\n"


@routes.get("/{number}")
async def number(number: int) -> int:
    return number


class Crowd:
    """Requests of one line, which say in which turn of the loop they were begun."""

    def __init__(self) -> None:
        self.line = Line(asyncio.get_running_loop())
        self.turn = 0
        self.begun: list[tuple[int, str]] = []

    def come(self, name: str, *, behind: bool = False) -> None:
        if not behind and self.line.admits():
            self._begin(name)
        else:
            self.line.stand(lambda: self._begin(name), behind=behind)

    async def turns(self, number: int) -> None:
        for _ in range(number):
            self.turn += 1
            await asyncio.sleep(0)

    def _begin(self, name: str) -> bool:
        self.begun.append((self.turn, name))
        self.line.begun()
        return not name.startswith("gone")


async def test_who_comes_to_an_empty_line_is_begun_at_once() -> None:
    crowd = Crowd()
    for nth in range(10):
        crowd.come(str(nth))
        assert crowd.begun[-1] == (crowd.turn, str(nth))
        await crowd.turns(2)


async def test_few_are_begun_in_a_turn_and_all_in_their_order() -> None:
    crowd = Crowd()
    for nth in range(20):
        crowd.come(str(nth))
    await crowd.turns(30)
    assert [name for _, name in crowd.begun] == [str(nth) for nth in range(20)]
    turns = [turn for turn, _ in crowd.begun]
    assert max(turns.count(turn) for turn in turns) <= MOST_A_TURN


async def test_who_came_behind_another_request_has_one_place_in_each_turn() -> None:
    crowd = Crowd()
    for _ in range(10):
        crowd.come("behind", behind=True)
    for _ in range(10):
        crowd.come("alone")
    await crowd.turns(30)
    while_both = [name for turn, name in crowd.begun if turn <= 10 // MOST_A_TURN]
    assert while_both.count("alone") >= while_both.count("behind")
    assert [name for _, name in crowd.begun].count("behind") == 10
    behind = [turn for turn, name in crowd.begun if name == "behind"]
    assert len(set(behind)) == len(behind)


async def test_who_has_left_costs_nobody_a_turn() -> None:
    crowd = Crowd()
    for nth in range(1000):
        crowd.come(f"gone {nth}", behind=True)
    crowd.come("there", behind=True)
    await crowd.turns(5)
    assert crowd.begun[-1][1] == "there"


async def test_a_line_that_has_ended_leaves_nothing_to_the_loop() -> None:
    crowd = Crowd()
    for nth in range(5):
        crowd.come(str(nth))
    await crowd.turns(20)
    assert crowd.line._turn is None


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of requests in the order in which they were given to the app."""
    paths: list[str] = []
    run_asgi = httptools_impl.RequestResponseCycle.run_asgi

    async def noted(cycle: httptools_impl.RequestResponseCycle, app: object) -> None:
        paths.append(cycle.scope["path"])
        await run_asgi(cycle, app)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(httptools_impl.RequestResponseCycle, "run_asgi", noted)
    return paths


@pytest.fixture
async def crowd_of_wires(serving: Service) -> AsyncIterator[list[Wire]]:
    async with AsyncExitStack() as wires:
        yield [await wires.enter_async_context(wire(serving)) for _ in range(20)]


async def test_pipelines_are_passed_by_requests_that_come_alone(
    serving: Service, order: list[str], crowd_of_wires: list[Wire]
) -> None:
    *pipelines, alone = crowd_of_wires
    for client in pipelines:
        client.send(NOTED % 1 * 50)
    for client in pipelines:
        await client.answer()
    alone.send(NOTED % 2)
    assert (await alone.answer())[0] == 200
    assert order.index("/line/2") < len(pipelines) * 50 / 2


async def test_all_are_answered_however_many_come_together(crowd_of_wires: list[Wire]) -> None:
    for client in crowd_of_wires:
        client.send(NOTED % 1 + NOTED % 2)
    for client in crowd_of_wires:
        assert [(await client.answer())[2] for _ in range(2)] == [b"1", b"2"]


async def test_who_stands_in_line_when_the_end_comes_is_served(
    serving: Service, crowd_of_wires: list[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Line, "admits", lambda _: False)
    monkeypatch.setattr(Line, "_put_off", lambda _: None)  # nobody's turn comes
    client = crowd_of_wires[0]
    client.send(NOTED % 7)
    async with asyncio.timeout(5):
        while not (waiting := [c for c in connections(serving) if c._is_in_line]):  # noqa: ASYNC110
            await asyncio.sleep(0)
    monkeypatch.undo()
    waiting[0].shutdown()
    assert (await client.answer())[2] == b"7"
