"""A service inside the test's own process and loop, behind a real uvicorn and a real socket.

Needs httpx.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

import httpx
import uvicorn

from lifeguard import service
from lifeguard.operations.state import State
from lifeguard.server.protocol import Protocol
from lifeguard.testing.clients import plain_client
from lifeguard.testing.waiting import eventually


@dataclass
class Service:
    """A running service: what a client sees of it, and what it is made of."""

    app: service.Service
    server: uvicorn.Server
    client: httpx.AsyncClient

    @property
    def state(self) -> State:
        return cast("State", self.server.lifespan.state)

    async def stop(self) -> None:
        """Tell the server to stop, as a signal does, and wait until it accepts nobody any more."""
        self.state["drain"].begin()
        self.server.should_exit = True
        await eventually(lambda: not any(server.is_serving() for server in self.server.servers))


@asynccontextmanager
async def serving(app: service.Service) -> AsyncIterator[Service]:
    """Serve the app until the block ends."""
    settings = app.parts["settings"]
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="websockets-sansio",
        ws_max_size=settings.max_body_bytes,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        lifespan="on",
        timeout_keep_alive=75,  # as in lifeguard.server: a connection must not end between two requests
        log_config=None,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    await eventually(lambda: server.started or running.done())
    if running.done():
        await running
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with plain_client(url) as client:
            yield Service(app, server, client)
    finally:
        server.should_exit = True
        await running


async def until_ready(service: Service) -> None:
    """Wait until `/readyz` answers 200."""

    async def ready() -> bool:
        answer = await service.client.get("/readyz")
        assert answer.status_code == httpx.codes.OK, answer.text
        return True

    await eventually(ready)
