"""The drain: from the signal to stop until the last request is finished or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context

import structlog

_log = structlog.get_logger("lifeguard.drain")


class Drain:
    r"""Knows whether the service is going away, and which requests are still being served.

    It begins with a delay in which everything is served as before, while readiness says 503 and each
    answer asks its client to close the connection. Then requests have `timeout` seconds to finish and
    are cut off, so that a server that waits for them (uvicorn has no limit) comes to its end.

    What never ends by itself, event streams and WebSockets, has `streams` seconds. An endpoint that has
    something to say before that waits for the drain itself:

        async def ticks(drain: DrainDep) -> StreamingResponse:
            async def events() -> AsyncIterator[str]:
                while not await drain.wait(timeout=1):
                    yield "data: tick\n\n"
                yield "event: goodbye\ndata:\n\n"
            return StreamingResponse(events(), media_type="text/event-stream")
    """

    def __init__(self, timeout: float, streams: float = 1.0) -> None:
        self._timeout = timeout
        self._streams = streams
        self._begun = asyncio.Event()
        self._ends_at: float | None = None
        self._requests: set[asyncio.Task[object]] = set()
        self._endless: dict[asyncio.Task[object], Callable[[], None]] = {}
        """How to end those that would not end by themselves."""
        self.time_is_up = False
        """Whether the requests that are still there are being cut off."""
        self.cut_off = 0
        """How many requests were."""

    @property
    def draining(self) -> bool:
        return self._begun.is_set()

    @property
    def in_flight(self) -> int:
        return len(self._requests)

    def begin(self, delay: float = 0.0) -> None:
        """Start the end, of which `delay` seconds are service as before; a second call changes nothing."""
        if self._begun.is_set():
            return
        self._begun.set()
        loop = asyncio.get_running_loop()
        self._ends_at = loop.time() + delay + self._timeout
        loop.call_at(self._ends_at, self._cut_off)
        loop.call_later(self._streams, self._end_all, tuple(self._endless))
        _log.info("draining", in_flight=self.in_flight, delay=delay, timeout=self._timeout)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the drain begins, `timeout` seconds at most; tell whether it has begun."""
        try:
            async with asyncio.timeout(timeout):
                await self._begun.wait()
        except TimeoutError:
            return False
        return True

    def time_left(self) -> float:
        """Seconds that are left to finish; never below 0."""
        if self._ends_at is None:
            return self._timeout
        return max(0.0, self._ends_at - asyncio.get_running_loop().time())

    def enter(self, name: str) -> asyncio.Task[object]:
        """Note that the current task serves the request `name`; give it to `leave` when it has."""
        task = asyncio.current_task()
        assert task  # a server runs each request in one
        task.set_name(name)  # which is what the pool's leak reports show
        self._requests.add(task)
        return task

    def leave(self, task: asyncio.Task[object]) -> None:
        self._requests.discard(task)
        self._endless.pop(task, None)

    def end_in_time(self, task: asyncio.Task[object], end: Callable[[], None]) -> None:
        """Call `end` when what `task` serves has used up the time of streams, unless it has left.

        That is counted from the beginning of the drain, or from now if the drain has begun.
        """
        self._endless[task] = end
        if self.draining:
            loop = asyncio.get_running_loop()
            loop.call_later(self._streams, self._end_all, (task,), context=Context())

    def _end_all(self, tasks: tuple[asyncio.Task[object], ...]) -> None:
        ends = [end for task in tasks if (end := self._endless.pop(task, None))]
        if ends:
            _log.info("streams_ended", streams=len(ends))
        for end in ends:
            end()

    def _cut_off(self) -> None:
        self.time_is_up = True
        self.cut_off = self.in_flight
        if self._requests:
            _log.warning("requests_cut_off", requests=self.in_flight)
        for task in self._requests:
            task.cancel("the service is shutting down")
