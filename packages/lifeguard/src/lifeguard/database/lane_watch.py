"""Reports a lane that hangs, and what its sessions wait for.

It has held most of a pool for long, or its breaker is not closed.

"Lane accounts holds 15 of 20 connections, all waiting for a lock on accounts": the pool knows the first half,
the server the second. It is asked on a session beside the pool, which has none to spare then, at most once in
a few seconds, for a bounded time, and never while the database is away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, replace

import asyncpg
import structlog

from lifeguard.database.blockers import who_blocks
from lifeguard.database.breaker import Breaker, BreakerState
from lifeguard.pool import LeaseInfo, Pool

# Seconds between two looks at the pool's numbers, which cost next to nothing; between two questions to the
# server; and for the answer.
INTERVAL = 1.0
ASKED_AGAIN_AFTER = 5.0
PATIENCE = 2.0
# Seconds. What is held for less is in quick use; the breaker of a lane has the same bound.
LONG = 1.0
# A lane that comes and goes is told of again after so many seconds.
_TOLD_AGAIN_AFTER = 60.0
# Sessions whose blockers are looked for, and blockers that are named: the rest wait for the same ones.
_ASKED_ABOUT = 3
_NAMED = 5

# A lock on a row is waited for as one on a transaction. The table is in the lock on the row's place then,
# which the first in line has.
_SESSIONS = """
SELECT holder.pid, holder.state, holder.wait_event_type,
       (SELECT min(wanted.relation::regclass::text) FROM pg_locks AS wanted
        WHERE wanted.pid = holder.pid AND wanted.relation IS NOT NULL
          AND (NOT wanted.granted OR wanted.locktype = 'tuple')
          AND wanted.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS relation
FROM pg_stat_activity AS holder
WHERE holder.pid = ANY($1::int[])
"""

LOCK = "waiting for a lock"
_IN_STATEMENT = "in a statement"
_STATES = {
    "active": _IN_STATEMENT,
    "fastpath function call": _IN_STATEMENT,
    "idle": "idle: their holders do something else",
    "idle in transaction": "idle in a transaction",
    "idle in transaction (aborted)": "idle in a transaction",
}

_log = structlog.get_logger("lifeguard.database")


@dataclass(frozen=True, slots=True)
class Sessions:
    """What a lane's sessions do, as the server says; nothing while it has not been asked."""

    deeds: Mapping[str, int]
    """How many do what: `LOCK` and others, as they stand in a sentence."""
    tables: tuple[str, ...] = ()
    """Those whose locks are waited for."""
    blocked_by: tuple[str, ...] = ()
    """Who has those locks: process, application, user, state, age of the transaction."""


_NOT_ASKED = Sessions({})


@dataclass(frozen=True, slots=True)
class LaneReport:
    """One lane that hangs, and what it holds."""

    lane: str
    holds: int
    max_size: int
    waiting: int
    held_for: float
    """Seconds of the lease that is held longest."""
    breaker: str = "closed"
    """The lane's: `closed`, `half_open` or `open`."""
    sessions: Sessions = _NOT_ASKED

    def summary(self, *, tables: bool) -> str:
        """One sentence; with the names of tables only for those who may see them."""
        said = f"lane {self.lane} holds {self.holds} of {self.max_size} connections"
        breaker = "" if self.breaker == "closed" else f"; its breaker is {self.breaker.replace('_', '-')}"
        deeds, names = self.sessions.deeds, self.sessions.tables
        on = f" on {', '.join(names)}" if tables and names else ""
        told = [(number, deed + on if deed == LOCK else deed) for deed, number in deeds.items()]
        match told:
            case [(_, deed)]:
                told_as = [f"all {deed}" if self.holds > 1 else deed]
            case _:
                told_as = [f"{number} {deed}" for number, deed in told]
        return ", ".join([said, *told_as]) + breaker


class LaneWatch:
    """Watches one pool until it is stopped. `report` says which of its lanes hangs."""

    def __init__(self, pool: Pool, breaker: Breaker) -> None:
        self._pool = pool
        self._breaker = breaker
        self._task: asyncio.Task[None] | None = None
        self._began = 0.0
        self._ask_at = 0.0
        self._told: tuple[str, float] | None = None
        """Of which lane the log has, and when."""
        self.report: LaneReport | None = None
        """None while no lane hangs."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"lanes {self._pool.name}", context=Context())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Look once; done every second from `start()` on."""
        now = asyncio.get_running_loop().time()
        before = self.report
        found = _hanging_lane(self._pool)
        if found is None:
            self._note_end(now)
            return
        report, leases = found
        if before is None or before.lane != report.lane:
            self._began = now
            self.report = report
        else:
            self.report = replace(report, sessions=before.sessions)
        if self._breaker.state is not BreakerState.CLOSED:
            self._tell(report, now)
        elif leases and now >= self._ask_at:
            self._ask_at = now + ASKED_AGAIN_AFTER
            sessions = await self._ask([lease.backend_pid for lease in leases])
            self.report = replace(report, sessions=sessions)
            self._tell(self.report, now)

    def _tell(self, report: LaneReport, now: float) -> None:
        """Say it in the log, unless that was said a moment ago."""
        if self._told and self._told[0] == report.lane and now - self._told[1] < _TOLD_AGAIN_AFTER:
            return
        self._told = report.lane, now
        _log.warning(
            "lane_hangs",
            pool=self._pool.name,
            lane=report.lane,
            holds=report.holds,
            max_size=report.max_size,
            waiting=report.waiting,
            breaker=report.breaker,
            held_for=round(report.held_for, 3),
            report=report.summary(tables=True),
            blocked_by=list(report.sessions.blocked_by),
        )

    def _note_end(self, now: float) -> None:
        if self.report is not None:
            _log.info(
                "lane_goes_on",
                pool=self._pool.name,
                lane=self.report.lane,
                seconds=round(now - self._began, 3),
            )
        self.report = None

    async def _ask(self, pids: Sequence[int]) -> Sessions:
        """Ask the server what those sessions do; nothing if there is no answer in time."""
        try:
            async with asyncio.timeout(PATIENCE):
                aside = await self._pool.connect_aside()
                try:
                    return await _sessions(pids, aside)
                finally:
                    aside.terminate()
        except Exception as error:  # noqa: BLE001 - whatever `init`, the network and the server may raise
            _log.debug("lane_not_asked", pool=self._pool.name, reason=str(error) or type(error).__name__)
            return _NOT_ASKED


def _hanging_lane(pool: Pool) -> tuple[LaneReport, list[LeaseInfo]] | None:
    """The lane that hangs and holds most, and its leases that are held for long, the longest first."""
    stats = pool.stats()
    for lane in sorted(stats.lanes, key=lambda lane: lane.used, reverse=True):
        is_refused = lane.breaker != "closed"
        if not is_refused and (lane.used * 2 <= stats.max_size or lane.oldest_use < LONG):
            continue
        leases = [lease for lease in pool.leases() if lease.lane == lane.name and lease.held_for >= LONG]
        if is_refused or len(leases) * 2 > stats.max_size:
            report = LaneReport(
                lane=lane.name,
                holds=lane.used,
                max_size=stats.max_size,
                waiting=lane.waiting,
                held_for=lane.oldest_use,
                breaker=lane.breaker,
            )
            return report, leases
    return None


async def _sessions(pids: Sequence[int], aside: asyncpg.Connection) -> Sessions:
    rows = await aside.fetch(_SESSIONS, pids)
    waiting = {row["pid"] for row in rows if row["wait_event_type"] == "Lock"}
    deeds = Counter(
        LOCK if row["pid"] in waiting else _STATES.get(row["state"] or "", _IN_STATEMENT) for row in rows
    )
    tables = sorted({row["relation"] for row in rows if row["pid"] in waiting and row["relation"]})
    asked_about = [pid for pid in pids if pid in waiting][:_ASKED_ABOUT]
    blocked_by = await who_blocks(asked_about, aside) if asked_about else []
    return Sessions(dict(deeds.most_common()), tuple(tables), tuple(blocked_by[:_NAMED]))
