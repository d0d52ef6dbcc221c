"""The sessions that others wait for: a migration, or a lane that holds most of a pool.

Asked on another session while they wait: later is too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import structlog

# Seconds: between two looks; and a wait of this length is logged while it lasts. Only a statement without a
# lock timeout waits that long.
_INTERVAL = 0.05
_LONG = 1.0

# pg_blocking_pids() stops every lock of the server for a moment, so it is called only for one that waits.
# What belongs to other roles shows its process, name and user; pid 0 is a prepared transaction. CONCURRENTLY
# may wait for this very question.
_BLOCKERS = """
SELECT DISTINCT ON (blocking.pid) blocking.pid, other.usename, other.application_name, other.state,
       extract(epoch FROM clock_timestamp() - other.xact_start)::float8 AS seconds
FROM pg_stat_activity AS waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking(pid)
LEFT JOIN pg_stat_activity AS other ON other.pid = blocking.pid
WHERE waiting.pid = ANY($1::int[]) AND waiting.wait_event_type = 'Lock' AND blocking.pid <> pg_backend_pid()
ORDER BY blocking.pid
"""

_log = structlog.get_logger("lifeguard.database")

Connect = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]


class Blockers:
    """The sessions that keep one session waiting, found by looking again and again."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._waits_since: float | None = None
        self._told: list[int] = []
        self.seen: list[str] = []
        """Those of the last wait, a description each; empty if none was seen."""

    async def run(self, connect: Connect) -> None:
        """Look until cancelled. Without a second session it logs nothing but that, for debugging."""
        try:
            async with connect() as aside:
                while True:
                    self._note(await aside.fetch(_BLOCKERS, [self._pid]))
                    await asyncio.sleep(_INTERVAL)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _log.debug("migration_not_watched", reason=str(error))

    def _note(self, rows: list[asyncpg.Record]) -> None:
        if not rows:
            self._waits_since, self._told = None, []
            return
        now = asyncio.get_running_loop().time()
        self._waits_since = now if self._waits_since is None else self._waits_since
        self.seen = [_description(row) for row in rows]
        pids = [row["pid"] for row in rows]
        if now - self._waits_since >= _LONG and pids != self._told:
            self._told = pids
            _log.warning("migration_blocked", blocked_by=self.seen)


@asynccontextmanager
async def blockers_of(pid: int, connect: Connect) -> AsyncIterator[Blockers]:
    """Watch the session `pid` in the block, on another one from `connect`."""
    blockers = Blockers(pid)
    watching = asyncio.create_task(blockers.run(connect), name="migration blockers")
    try:
        yield blockers
    finally:
        watching.cancel()
        await asyncio.wait({watching})


async def who_blocks(pids: Sequence[int], aside: asyncpg.Connection) -> list[str]:
    """Describe the sessions that keep those waiting; `aside` is none of them.

    It stops every lock of the server for a moment, once for each of `pids` that waits for one.
    """
    return [_description(row) for row in await aside.fetch(_BLOCKERS, pids)]


def _description(row: asyncpg.Record) -> str:
    """Describe a session without its statement, which may contain secrets."""
    if not row["pid"]:
        return "a prepared transaction (pg_prepared_xacts)"
    known = [row["application_name"], f"user {row['usename']}" if row["usename"] else None, row["state"]]
    if row["seconds"] is not None:
        known.append(f"transaction of {row['seconds']:.1f} s")
    return f"process {row['pid']} ({', '.join(filter(None, known))})"
