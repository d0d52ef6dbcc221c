"""A wait queue without a pool: nothing here needs a server."""

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any, cast

from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.queue import WaitQueue
from lifeguard.pool.stats import Histogram


class TimedOut(Exception):
    """What the queue under test tells those whose budget is used up."""


class TurnedAway(Exception):
    """What it tells those who have become stale."""


def make_queue(target: float = 0, *, serving: int = 1) -> WaitQueue:
    """Of a pool with `serving` connections."""
    queue = WaitQueue(
        target, Histogram(), time_out=lambda _: TimedOut(), turn_away=TurnedAway, serving=lambda: serving
    )
    queue.create_future = asyncio.get_running_loop().create_future
    return queue


_numbers = count()


def connection() -> PooledConnection:
    """Something to hand out; the queue never looks at it."""
    return cast("PooledConnection", next(_numbers))


def in_a_loop(coroutine: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(coroutine)
