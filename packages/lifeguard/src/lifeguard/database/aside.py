"""One session beside a pool, for questions that must not wait for the pool's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg

from lifeguard.database.connect_options import quoted
from lifeguard.pool import Pool, PoolError, is_through_pooler

# Seconds for the answer to one question.
PATIENCE = 0.6
# Seconds. A timer that fires so late says that this process was stopped; it says nothing about the server.
_STOPPED_FOR = 0.3


class Aside:
    """The session: made as the pool makes its own, kept between the questions."""

    def __init__(self, pool: Pool, name: str, questions: Sequence[str]) -> None:
        """`name` is its `application_name`. Of several `questions` the first that the server does not refuse
        is asked from then on: what resembles PostgreSQL may have other functions, or allow them to nobody."""
        self._pool = pool
        self._name = name
        self._questions = questions
        self._connection: asyncpg.Connection | None = None
        self._opening: asyncio.Task[asyncpg.Connection] | None = None

    async def ask(self) -> asyncpg.Record:
        """The one row that answers. A session that has ended is replaced.

        Raises TimeoutError when no answer comes in time, what says that there is no server, one of
        CANNOT_TELL, and the pool's errors: a server that lets nobody else in is asked over the pool.
        """
        while True:
            try:
                return await self._ask(self._questions[0])
            except CANNOT_TELL:
                if len(self._questions) == 1:
                    raise
                self._questions = self._questions[1:]

    async def _ask(self, question: str) -> asyncpg.Record:
        if (connection := self._connection) is not None:
            try:
                return await _answer(connection, question)
            except TimeoutError:
                self.close()
                raise
            except _SESSION_GONE:
                self.close()
        try:
            self._connection = connection = await self._opened()
        except asyncpg.OperatorInterventionError:  # it starts, or stops
            raise
        except asyncpg.PostgresError:
            async with self._pool.acquire(timeout=PATIENCE) as lease:
                return _only(await lease.fetchrow(question, timeout=PATIENCE))
        return await _answer(connection, question)

    async def _opened(self) -> asyncpg.Connection:
        """A new session. What takes longer than the patience for one question goes on until the next."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name=f"{self._pool.name} lag: open")
            self._opening.add_done_callback(self._cut_unless_wanted)
        opening = self._opening
        if not await _is_done_in_time(opening):
            raise StillOpening("no session yet")
        self._opening = None
        opening.remove_done_callback(self._cut_unless_wanted)  # it may be still to come
        return opening.result()

    async def _open(self) -> asyncpg.Connection:
        connection = await self._pool.connect_aside()
        try:
            if not is_through_pooler(connection):  # which would keep it for others
                await connection.execute(f"SET application_name = {quoted(self._name)}", timeout=PATIENCE)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _cut_unless_wanted(self, opening: asyncio.Task[asyncpg.Connection]) -> None:
        if opening is not self._opening and not opening.cancelled() and opening.exception() is None:
            opening.result().terminate()

    def close(self) -> None:
        connection, self._connection = self._connection, None
        opening, self._opening = self._opening, None
        if opening is not None and opening.done():
            self._cut_unless_wanted(opening)
        elif opening is not None:
            opening.cancel()
        if connection is not None:
            connection.terminate()


class StillOpening(TimeoutError):
    """It takes longer than the patience for one question."""


_SESSION_GONE = (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
# What resembles PostgreSQL may have other functions, or allow them to nobody.
CANNOT_TELL = (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)
NO_ANSWER = (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)  # a TimeoutError is one


async def _answer(connection: asyncpg.Connection, question: str) -> asyncpg.Record:
    """Raises TimeoutError, and has cut the session then: a cancel request would not be heard either."""
    asking = asyncio.create_task(connection.fetchrow(question))
    try:
        if not await _is_done_in_time(asking):
            raise TimeoutError(f"no answer within {PATIENCE:g} s")
        return _only(asking.result())
    finally:
        if not asking.done():
            connection.terminate()
            await asyncio.wait({asking})
        if not asking.cancelled():
            asking.exception()  # it has been looked at


async def _is_done_in_time(task: asyncio.Task[Any]) -> bool:
    """Wait for `PATIENCE` seconds in which this process runs."""
    loop = asyncio.get_running_loop()
    while not task.done():
        due = loop.time() + PATIENCE
        await asyncio.wait({task}, timeout=PATIENCE)
        if not task.done() and loop.time() - due < _STOPPED_FOR:
            return False
    return True


def _only(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AssertionError("a SELECT without WHERE gives a row")
    return row
