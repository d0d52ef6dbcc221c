"""A process's seat among those that share a server: one session beside the pool's, whose `application_name`
says what its pool may have.

The names are `ledger#1a2b3c` for the sessions of a pool, with what is appended to each elsewhere, and
`ledger#1a2b3c seat 17` for the seat. A role without privileges sees the names of all sessions of its own.
The server ends a seat with its process, as it does with the pool's sessions, so nothing expires by any clock.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable
from dataclasses import replace
from typing import TypeVar

import asyncpg

from lifeguard.database.errors import PoolOversized
from lifeguard.database.fleet import Facts, Seat
from lifeguard.database.sizing import AUTO_BEHIND_POOLER, CAPACITY_COLUMNS, Capacity, capacity_of
from lifeguard.pool import Pool, is_through_pooler

T = TypeVar("T")

# Seconds for each answer, and for a goodbye. No request waits for it.
_PATIENCE = 2.0
_MARK = "#"
"""Not in any SERVICE_NAME."""
_DIGITS = 6

# $1 is the service's name and the mark, $2 the process's own name. `usesysid` is null for what is no session.
# Put together of this module's own numbers.
_QUESTION = f"""
WITH present AS MATERIALIZED (
    SELECT pid, backend_start, substr(application_name, 1, length($1) + {_DIGITS}) AS process,
           substr(application_name, length($1) + {_DIGITS + 1}) AS rest,
           usename = current_user AND datname = current_database()
               AND starts_with(application_name, $1) AS ours
      FROM pg_catalog.pg_stat_activity
     WHERE usesysid IS NOT NULL AND datid IS NOT NULL
       AND COALESCE(backend_type, 'client backend') = 'client backend'
), seats AS (
    SELECT pid, process, backend_start, substr(rest, 7)::int AS claim
      FROM present WHERE ours AND rest ~ '^ seat [0-9]{{1,5}}$'
)
SELECT {CAPACITY_COLUMNS},
       pg_backend_pid() AS mine,
       (SELECT count(*)::int FROM present WHERE NOT ours) AS foreigners,
       (SELECT count(*)::int FROM present
         WHERE ours AND process <> $2 AND process NOT IN (SELECT process FROM seats)) AS orphans,
       (SELECT EXTRACT(epoch FROM clock_timestamp() - backend_start)::float8 FROM present
         WHERE pid = pg_backend_pid()) AS age,
       ARRAY(SELECT pid FROM seats ORDER BY backend_start, pid) AS sessions,
       ARRAY(SELECT claim FROM seats ORDER BY backend_start, pid) AS claims
"""  # noqa: S608


def process_name(service: str) -> str:
    """What the sessions of one process are called: the service's name, and something of its own."""
    return f"{service}{_MARK}{secrets.token_hex(_DIGITS // 2)}"


def _facts_of(row: asyncpg.Record) -> Facts:
    capacity = capacity_of(row)
    return Facts(
        room=capacity.available,
        left_by_others=capacity.max_connections - capacity.reserved - row["foreigners"],
        orphans=row["orphans"],
        seats=tuple(map(Seat, row["sessions"], row["claims"])),
        mine=row["mine"],
        age=row["age"],
    )


async def look(session: asyncpg.Connection, service: str) -> Facts:
    """What the server shows of the processes of a service to somebody who is none of them, on a session with
    another name."""
    row = await session.fetchrow(_QUESTION, f"{service}{_MARK}", "")
    assert row is not None  # a SELECT without FROM gives one
    facts = _facts_of(row)
    return replace(facts, left_by_others=facts.left_by_others + 1)  # this session goes


class FleetSeat:
    """Asks and says, on a session that it makes when it is needed."""

    def __init__(self, pool: Pool, process: str) -> None:
        """`process` is the `application_name` of the pool's sessions, from `process_name()`."""
        self._pool = pool
        self._process = process
        self._session: asyncpg.Connection | None = None
        self.capacity: Capacity | None = None
        """What the server has had when it was last asked."""

    @property
    def is_there(self) -> bool:
        return self._session is not None and not self._session.is_closed()

    async def ask(self) -> Facts:
        """What the server shows now. Raises what says that it does not answer, and PoolOversized where nobody
        can count: behind a pooler."""
        session = await self._connected()
        row = await self._bounded(session.fetchrow(_QUESTION, self._process[:-_DIGITS], self._process))
        assert row is not None  # a SELECT without FROM gives one
        self.capacity = capacity_of(row)
        return _facts_of(row)

    async def say(self, claim: int) -> None:
        """Show all others what the pool may have. Raises as `ask()`."""
        session = await self._connected()
        name = f"{self._process} seat {claim}"
        await self._bounded(session.execute("SELECT set_config('application_name', $1, false)", name))

    async def _connected(self) -> asyncpg.Connection:
        if self._session is not None and not self._session.is_closed():
            return self._session
        session = await self._pool.connect_aside()
        if is_through_pooler(session):
            session.terminate()
            raise PoolOversized(AUTO_BEHIND_POOLER)
        self._session = session
        return session

    async def _bounded(self, answer: Awaitable[T]) -> T:
        """It, in time; else the session is cut."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await answer
        except BaseException:
            self.cut()
            raise

    async def leave(self) -> None:
        """Say goodbye: the seat is free when this returns."""
        session, self._session = self._session, None
        if session is not None:
            try:
                await session.close(timeout=_PATIENCE)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                session.terminate()

    def cut(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.terminate()
