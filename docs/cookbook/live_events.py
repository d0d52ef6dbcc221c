"""Server-sent events, fed by NOTIFY: one connection of the process listens, and comes back by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from lifeguard import PoolError
from lifeguard.database import Database
from lifeguard.service import Service
from lifeguard.settings import Settings

_log = structlog.get_logger("app.live_events")

CHANNEL = "orders"
_BEHIND = 100  # events that a slow client may have outstanding; then it is told to start over
_PAUSE = 0.5  # seconds after an attempt in vain

START_OVER = None
"""Among the payloads: some may be missing here."""


class Feed:
    """What is notified on `CHANNEL`, for any number of subscribers in this process."""

    def __init__(self, settings: Settings) -> None:
        # A pool of one beside the service's: it knows the hosts, rereads the password, and does not storm.
        alone = {
            "pool_min_size": 0,
            "pool_max_size": 1,
            "pool_leak_threshold": 0,
            "database_replica_url": None,
        }
        self._database = Database(settings.model_copy(update=alone), name="feed")
        self._subscribers: set[asyncio.Queue[str | None]] = set()

    async def run(self) -> None:
        """Listen until cancelled."""
        async with self._database:
            while True:
                try:
                    await self._listen()
                except (PoolError, OSError):
                    await asyncio.sleep(_PAUSE)

    async def _listen(self) -> None:
        """Listen until the connection ends, or there is none."""
        ended = asyncio.Event()
        async with self._database.primary.acquire() as connection:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, self._hear)
            self._tell(START_OVER)  # PostgreSQL keeps nothing for those who do not listen
            _log.info("feed_listens", subscribers=len(self._subscribers))
            await ended.wait()
            _log.warning("feed_interrupted", subscribers=len(self._subscribers))

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._tell(str(payload))

    def _tell(self, payload: str | None) -> None:
        for queue in self._subscribers:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(START_OVER)
            queue.put_nowait(payload)

    async def payloads(self) -> AsyncIterator[str | None]:
        """From now on, and `START_OVER` first."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_BEHIND)
        self._subscribers.add(queue)
        try:
            yield START_OVER
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[dict[str, object]]:
    feed = Feed(service.parts["settings"])
    running = asyncio.create_task(feed.run(), name="feed")
    try:
        yield {"feed": feed}
    finally:
        running.cancel()
        await asyncio.wait({running})


async def feed(request: Request) -> Feed:
    feed: Feed = request.state.feed
    return feed


router = APIRouter(lifespan=lifespan)


@router.get("/orders/events", response_class=EventSourceResponse)
async def events(feed: Annotated[Feed, Depends(feed)]) -> AsyncIterator[ServerSentEvent]:
    """Tell of each order that changes. After `start-over` a client reads the orders anew.

    It ends with its client, or `DRAIN_STREAMS` seconds after the service was told to stop.
    """
    async for payload in feed.payloads():
        if payload is START_OVER:
            yield ServerSentEvent(event="start-over", raw_data="")
        else:
            yield ServerSentEvent(event="order", raw_data=payload)
