"""Code that blocks the event loop is told, with its place; what is no mistake is not."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType

import pytest
import structlog
from lifeguard.observability import StallWatch
from structlog.typing import EventDict

BLOCKED = 0.3  # seconds


Seen = Callable[[], Awaitable[list[EventDict]]]


@pytest.fixture
async def seen() -> AsyncIterator[Seen]:
    """Ends the watch, and gives what it has told."""
    watch = StallWatch()
    with structlog.testing.capture_logs() as events:
        others = set(threading.enumerate())  # of services that other tests share, for instance
        watch.start()
        [thread] = set(threading.enumerate()) - others

        async def seen() -> list[EventDict]:
            watch.stop()
            await asyncio.to_thread(thread.join)
            # Those of services that other tests share are not about this.
            return [event for event in events if event["event"] == "event_loop_blocked"]

        yield seen
        await seen()


def watches() -> int:
    """This test's own, and those of services that other tests share, which are on this loop, too."""
    return sum(thread.name == "event loop watch" for thread in threading.enumerate())


def block() -> None:
    time.sleep(BLOCKED)


def compute() -> None:
    ends = time.thread_time() + BLOCKED
    while time.thread_time() < ends:
        pass


@pytest.mark.parametrize("work", [block, compute])
async def test_is_told_once_with_its_place(seen: Seen, work: Callable[[], None]) -> None:
    watches_before = watches()
    for _ in range(2):
        work()
        await asyncio.sleep(0.1)  # a pause is what makes it two
    told = await seen()
    event = told[0]
    assert {each["at"] for each in told} == {event["at"]}
    assert len(told) <= watches_before
    assert event["event"] == "event_loop_blocked"
    assert event["seconds"] >= BLOCKED / 2
    assert event["at"].endswith(f"in {work.__name__}")
    assert event["stack"].splitlines()[0].endswith(f"in {work.__name__}")
    assert "asyncio.to_thread" in event["remedy"]


async def test_waiting_is_no_mistake(seen: Seen) -> None:
    await asyncio.sleep(BLOCKED)
    await asyncio.to_thread(block)
    assert not await seen()


@pytest.mark.parametrize("name", ["pdb", "pydevd"])
async def test_neither_is_a_person_at_a_debugger(seen: Seen, name: str) -> None:
    debugger = ModuleType(name)
    exec("def stop(function):\n    function()\n", vars(debugger))  # noqa: S102 - as a frame of that module
    debugger.stop(block)
    assert not await seen()


async def test_nor_an_import(seen: Seen, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with open(f"{tmp_path}/slow_to_import.py", "w") as module:  # noqa: ASYNC230, PTH123
        module.write(f"import time\ntime.sleep({BLOCKED})\n")
    import slow_to_import  # type: ignore[import-not-found]  # noqa: F401, PLC0415

    sys.modules.pop("slow_to_import")
    assert not await seen()
