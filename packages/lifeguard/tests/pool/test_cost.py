"""What lanes cost a busy pool, counted: time would tell of the machine. bench.pool measures it."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lifeguard import pool as engine
from lifeguard.pool import Pool, lanes

from packages.lifeguard.tests.pool.conftest import MakePool

SIZE = 10
BORROWERS = 100
TURNS = 4
_ENGINE = str(Path(engine.__file__).parent)


@dataclass
class Count:
    """What was run of the pool's code, for each borrow."""

    instructions: float = 0
    calls: float = 0


@contextmanager
def counting() -> Iterator[Count]:
    count = Count()

    def inside(_frame: FrameType, event: str, _argument: Any) -> Any:
        count.instructions += event == "opcode"
        return inside

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_ENGINE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count.calls += 1
        return inside

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield count
    finally:
        sys.settrace(before)
    count.instructions /= BORROWERS * TURNS
    count.calls /= BORROWERS * TURNS


async def cost_of(pool: Pool, number_of_lanes: int) -> Count:
    """Of a borrow and a return, while more borrow than there are connections."""

    async def borrower(number: int, turns: int) -> None:
        lane = f"lane {number % number_of_lanes}" if number_of_lanes else None
        for _ in range(turns):
            async with pool.acquire(lane=lane):
                await asyncio.sleep(0)

    await asyncio.gather(*(borrower(number, 2) for number in range(BORROWERS)))
    known = pool._state.lanes
    for lane in known:
        lane.demand = SIZE / 2  # as it would be after some seconds of this
    known._divide()
    tasks = [asyncio.create_task(borrower(number, TURNS)) for number in range(BORROWERS)]
    with counting() as count:
        await asyncio.gather(*tasks)
    return count


async def test_one_lane_costs_what_none_does_and_many_cost_little_more(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "TICK", 1e9)  # how many there are depends on the machine
    none, one, many = [
        await cost_of(await make_pool(min_size=SIZE, max_size=SIZE, queue_target=0), number)
        for number in (0, 1, 20)
    ]
    assert one.instructions <= none.instructions + 20
    assert one.calls <= none.calls + 0.5
    assert many.instructions <= none.instructions * 1.75
    assert many.calls <= none.calls + 6.5
