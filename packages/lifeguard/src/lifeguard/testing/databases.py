"""Databases for tests: copies of a template, made by a session that stays open between tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from itertools import count
from typing import Any, TypeVar

import asyncpg

from lifeguard.testing.servers import ADMIN, PostgresServer

T = TypeVar("T")

_SESSION_LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)
_numbers = count(1)


# Any: what a coroutine is sent.
def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own: databases are there for tests with and without a loop alike."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(coroutine)


class Databases:
    """Makes and drops databases on `server`, which may have been restarted in between.

    Not a coroutine in sight: fixtures of tests with and without a loop use it alike. A copy is made file by
    file (`STRATEGY file_copy`), which is twice as fast for a small template as through the write-ahead log.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._session: asyncpg.Connection | None = None

    def create(self, template: str = "template1") -> str:
        """The name of a new database; nobody may be connected to the template."""

        async def create(session: asyncpg.Connection) -> str:
            name = f"test_copy_{next(_numbers)}"
            await session.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
            return name

        return self._run(create)

    def drop(self, name: str) -> None:
        """Drop the database with all its sessions."""

        async def drop(session: asyncpg.Connection) -> None:
            await session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

        self._run(drop)

    def close(self) -> None:
        if self._session is not None:
            self._session.terminate()
            self._loop.run_until_complete(asyncio.sleep(0))  # the transport closes in the next turn
        self._loop.close()

    def _run(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        return self._loop.run_until_complete(self._work(work))

    async def _work(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        if self._session is not None:
            try:
                return await work(self._session)
            except _SESSION_LOST:  # a test has restarted the server, or ended all sessions
                self._session.terminate()
        await self._server.start()
        self._session = await asyncpg.connect(
            self._server.dsn(unix=True), server_settings={"application_name": ADMIN}
        )
        return await work(self._session)
