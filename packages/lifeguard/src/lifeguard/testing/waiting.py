"""Waiting for an event instead of for time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T]], timeout: float = ..., *, interval: float = ...
) -> T: ...
@overload
async def eventually(predicate: Callable[[], T], timeout: float = ..., *, interval: float = ...) -> T: ...
async def eventually(
    predicate: Callable[[], object], timeout: float = 45.0, *, interval: float = 0.01
) -> object:
    """The first truthy value of `predicate`, asked every `interval` seconds.

    The default is for a busy machine; whoever gets what it waits for waits no longer than that takes.
    Raises AssertionError with the last value after `timeout` seconds. An AssertionError of the
    predicate is a "not yet" as well; anything else that it raises passes through.
    """
    give_up = time.monotonic() + timeout
    while True:
        last: object
        try:
            answer = predicate()
            value = await answer if inspect.isawaitable(answer) else answer
            if value:
                return value
            last = value
        except AssertionError as error:
            last = error
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {timeout} s; last: {last!r}")
        await asyncio.sleep(interval)
