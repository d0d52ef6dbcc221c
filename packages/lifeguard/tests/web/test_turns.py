"""What is long when all do it at once is done one at a time, with everybody else in between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Request, WebSocket
from lifeguard.server.protocol import Protocol
from lifeguard.testing.serving import Service
from lifeguard.web import strict_json
from lifeguard.web import turns as turns_module
from lifeguard.web.turns import Turns

LARGE = b"[" + b"1," * 4000 + b"1]"

routes = APIRouter(prefix="/test")
read: list[str] = []


@routes.post("/large")
async def large(body: Annotated[Any, Body()]) -> None: ...


def ticking() -> asyncio.Task[None]:
    async def tick() -> None:
        while True:
            read.append("tick")
            await asyncio.sleep(0)

    return asyncio.create_task(tick())


@pytest.fixture(autouse=True)
async def ticks() -> AsyncIterator[None]:
    strict_json.install()
    read.clear()
    task = ticking()
    yield
    task.cancel()


async def parse(body: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    await Request({"type": "http", "headers": []}, receive).json()
    read.append("read")


def in_a_row() -> int:
    """The most that were read with nothing in between."""
    return max(map(len, "".join("r" if what == "read" else " " for what in read).split()))


async def test_large_bodies_that_come_together_are_read_with_others_in_between() -> None:
    await asyncio.gather(*(parse(LARGE) for _ in range(30)))
    assert read.count("read") == 30
    assert in_a_row() == 1


async def test_small_ones_wait_for_nobody() -> None:
    await asyncio.gather(*(parse(b"[1]") for _ in range(30)))
    assert in_a_row() == 30


async def test_turns_come_in_order_and_those_who_left_are_passed_over() -> None:
    turns, order = Turns(), []

    async def take(number: int) -> None:
        await turns.mine()
        order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(9)]
    while len(order) < 2:  # noqa: ASYNC110 - counts the turns of the loop
        await asyncio.sleep(0)
    for number in (3, 4, 8):
        tasks[number].cancel()
    await asyncio.wait(tasks)
    assert order == [0, 1, 2, 5, 6, 7]


async def served_with(turns: Turns, charged: float) -> list[str]:
    """Who has had a turn by the time that those have who were not refused."""
    order: list[str] = []

    async def take(who: str, *, was_refused: bool = False) -> None:
        await turns.mine(was_refused=was_refused)
        order.append(who)

    turns.charge(charged)
    refused = [asyncio.create_task(take("refused", was_refused=True)) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.gather(*(take("other") for _ in range(3)))
    for task in refused:
        task.cancel()
    await asyncio.wait(refused)
    return order


async def test_who_was_refused_waits_behind_all_others() -> None:
    assert await served_with(Turns(), turns_module.DEAR * 10) == ["other"] * 3


async def test_nobody_rests_from_what_was_cheap() -> None:
    assert (await served_with(Turns(), turns_module.DEAR / 2))[0] == "refused"


async def test_who_was_refused_has_a_turn_when_the_rest_is_over() -> None:
    turns = Turns()
    turns.charge(turns_module.DEAR)
    async with asyncio.timeout(5):
        await turns.mine(was_refused=True)
        await turns.mine()


async def test_a_connection_is_known_by_its_last_large_body(serving: Service) -> None:
    headers = {"Content-Type": "application/json"}
    bad, small = b'{"a": 1, "a": "' + b"x" * 5000 + b'"}', b"[1]"
    for body, was_refused in ((bad, True), (small, True), (LARGE, False)):
        await serving.client.post("/test/large", content=body, headers=headers)
        (connection,) = (
            c for c in serving.server.server_state.connections if isinstance(c, Protocol)
        )  # the client keeps one
        assert connection._record.was_refused is was_refused


@pytest.mark.parametrize("steps", range(8))
async def test_no_turn_is_lost_with_one_who_leaves_as_it_comes(steps: int) -> None:
    turns = Turns()
    first, second, third = (asyncio.create_task(turns.mine()) for _ in range(3))
    for _ in range(steps):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([first, second, third], timeout=5)
    assert third.done()
    await asyncio.wait_for(turns.mine(), 5)


async def test_a_body_has_its_turn_however_many_come(serving: Service) -> None:
    headers = {"Content-Type": "application/json"}
    posts = (serving.client.post("/test/large", content=LARGE, headers=headers) for _ in range(40))
    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}


async def test_a_websocket_reads_by_the_same_rules() -> None:
    messages: list[dict[str, str]] = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": '{"a": 1}'},
        {"type": "websocket.receive", "text": '{"a": 1, "a": 2}'},
    ]

    async def receive() -> dict[str, str]:
        return messages.pop(0)

    async def send(_: object) -> None: ...

    socket = WebSocket({"type": "websocket", "headers": []}, receive, send)
    await socket.accept()
    assert await socket.receive_json() == {"a": 1}
    with pytest.raises(strict_json.JSONRefused):
        await socket.receive_json()
