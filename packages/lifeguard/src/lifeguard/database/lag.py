"""How far behind the primary a replica is, asked in the background.

A standby that has stopped replicating answers every read, with data that is older and older. So both servers
are asked for their place in the WAL, on a session each that is none of the pools': when they are busy, or
nobody reads, the answer comes all the same.

The lag in seconds is the time since the primary was where the standby is now, on this process's monotonic
clock. It is not `now() - pg_last_xact_replay_timestamp()`, which grows on an idle primary although nothing is
behind, and depends on two clocks. It grows only while the primary is heard: a primary that is gone writes
nothing, and what its standby has is the newest there is.

A server that is not a standby (a primary, a logical subscriber), or does not tell its position in the WAL,
cannot be measured. It is read while it answers. One that was a standby and has been promoted is not read
while there is a primary: it may be another one. It is the primary once it has the cluster's identifier and
timeline of that.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from typing import Literal

import asyncpg
import structlog

from lifeguard.database.aside import CANNOT_TELL, NO_ANSWER, Aside, StillOpening
from lifeguard.database.replay import ReplayWaiters
from lifeguard.database.wal import SYSTEM, TIMELINE, Lag, PrimaryWatch
from lifeguard.pool import Pool, PoolError
from lifeguard.settings import Settings

Standing = Literal["unknown", "current", "unmeasured", "behind", "silent", "promoted", "primary"]
"""unknown: not asked yet, or its pool has no connection; unmeasured: not known; silent: no answer; promoted:
it was a standby, and is not the primary; primary: it is the primary itself, one of several or one that was a
standby."""

READABLE: frozenset[Standing] = frozenset(("current", "unmeasured"))

# Seconds between two questions. With the time for the answer to one it is less than the second after which
# reads are to have left a replica that is frozen.
_INTERVAL = 0.3
# The same while somebody waits for its replay.
_INTERVAL_AWAITED = 0.01
# At least so many questions within REPLICA_MAX_LAG, where that is short.
_QUESTIONS_WITHIN_LIMIT = 4
# A replica that was left is read again once it is no further behind than this part of REPLICA_MAX_LAG: one
# that is just about as far behind as it may be does not come and go.
_BACK_AT = 0.5
# Seconds. Who asked so lately, and was answered, need not be asked again.
_FRESH = 0.1
# Questions in a row without an answer, all but the first on a new session, after which nothing is expected
# any more of what the server was asked before: two seconds.
_SILENCES_OF_FROZEN = 3
# Seconds between two sessions with one that was promoted, the primary or not: its name may lead to another
# server by then.
_LOOK_ELSEWHERE = 5.0

# Whether there is a receiver may be seen by anybody, what it does by superusers and pg_read_all_stats only.
_REPLICA = """
SELECT in_recovery,
       CASE WHEN in_recovery
            THEN (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
       END AS place,
       receiver.received_tli AS received_timeline,
       CASE WHEN in_recovery THEN {timeline} ELSE {own_timeline} END AS timeline,
       {system} AS system,
       CASE WHEN in_recovery THEN pg_catalog.pg_is_wal_replay_paused() END AS paused,
       receiver.pid IS NOT NULL AS receives,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8
           AS age
FROM pg_catalog.pg_is_in_recovery() AS in_recovery LEFT JOIN pg_catalog.pg_stat_wal_receiver AS receiver ON
true
"""
# The control file may be as old as the last restart point: it has the timeline or an earlier one, no later
# one.
_TIMELINE = """
GREATEST(receiver.received_tli,
         (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
         (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()))
"""
# The second is for who may not see the control file, or where there is none.
_QUESTIONS = (
    _REPLICA.format(timeline=_TIMELINE, own_timeline=TIMELINE, system=SYSTEM),
    _REPLICA.format(
        timeline="receiver.received_tli",
        own_timeline="NULL::pg_catalog.int4",
        system="NULL::pg_catalog.int8",
    ),
)

_log = structlog.get_logger("lifeguard.database")


def interval(settings: Settings) -> float:
    """Seconds between two questions."""
    return min(_INTERVAL, settings.replica_max_lag / _QUESTIONS_WITHIN_LIMIT)


def session_name(settings: Settings) -> str:
    """The `application_name` of the sessions that ask."""
    return f"{settings.service_name}: replica lag"


class LagWatch:
    """Asks until it is stopped, and knows whether the replica may be read."""

    def __init__(
        self, settings: Settings, pool: Pool, primary: PrimaryWatch, *, is_one_of_several: bool
    ) -> None:
        self._most_seconds = settings.replica_max_lag
        self._most_bytes = settings.replica_max_lag_bytes or math.inf
        self._interval = interval(settings)
        self._pool = pool
        self._session = Aside(pool, session_name(settings), _QUESTIONS)
        self._primary = primary
        self._is_one_of_several = is_one_of_several
        self.was_standby = False
        """Whether it has been one: nothing could be written there."""
        self._look_elsewhere_at = 0.0
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._answered_at = float("-inf")
        """When the question was asked that was answered last."""
        self._looked: asyncio.Future[None] | None = None
        """Done with the look that is under way, if somebody waits for that."""
        self._unanswered = 0
        """How many questions in a row."""
        self._on_look: Callable[[], None] = lambda: None
        self._on_frozen: Callable[[], None] = lambda: None
        self.standing: Standing = "unknown"
        self.lag: Lag | None = None
        """None while it is not known."""
        self.reason = ""
        """Why the replica is not read; empty while it is, and while it is `unknown`."""
        self.replayed_lsn = -1
        self.timeline = 0
        self.waiters = ReplayWaiters()

    @property
    def allows_reading(self) -> bool:
        return self.standing in READABLE

    @property
    def needs_primary(self) -> bool:
        return self._is_awake() and (self.was_standby or self._is_one_of_several)

    @property
    def is_fresh(self) -> bool:
        """Whether it has answered just now."""
        return asyncio.get_running_loop().time() - self._answered_at <= _FRESH

    @property
    def is_frozen(self) -> bool:
        """Whether the server has neither answered on a session that stood nor made a new one."""
        return self._unanswered >= _SILENCES_OF_FROZEN

    def start(self, on_look: Callable[[], None], on_frozen: Callable[[], None]) -> None:
        """Begin to ask. `on_look` is called after each look, whether or not there was an answer, `on_frozen`
        after each that finds the server frozen."""
        self._on_look, self._on_frozen = on_look, on_frozen
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"{self._pool.name} lag", context=Context()
        )

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def hurry(self) -> None:
        """Look at once."""
        self._hurry.set()

    async def answers(self) -> bool:
        """Whether the replica answers: it is asked at once, unless it has answered just now. Takes no longer
        than the patience for one question."""
        if self._task is None or self._task.done() or self.is_fresh:
            return self.standing != "silent"
        if self._looked is None:
            self._looked = asyncio.get_running_loop().create_future()
        self.hurry()
        await asyncio.shield(self._looked)
        return self.standing != "silent"

    def replayed(self, lsn: int) -> asyncio.Future[None]:
        """Done once the replica has said that it has replayed `lsn`. While anybody waits for that, it is
        asked often, once for all; whoever waits no longer cancels the future."""
        if not self.waiters:
            self.hurry()
        return self.waiters.add(lsn)

    # -- asking ------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                if self._is_awake():
                    await self._look()
                else:
                    self._session.close()
                    self._judge("unknown")
                self._end_look()
                self._on_look()
                self.waiters.note(self.replayed_lsn)
                await self._until_due()
        finally:
            self._session.close()
            self._end_look()

    def _end_look(self) -> None:
        looked, self._looked = self._looked, None
        if looked is not None:
            looked.set_result(None)

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(_INTERVAL_AWAITED if self.waiters else self._interval):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    def _is_awake(self) -> bool:
        """Not while the pool has no connection: nobody reads there then, a server that is full has its last
        session for them, and one that may sleep (POOL_MIN_SIZE=0) is left asleep."""
        return self._pool.get_size() > 0

    async def _look(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            answer = await self._session.ask()
        except PoolError as error:
            _log.debug("lag_not_asked", pool=self._pool.name, reason=str(error))
        except CANNOT_TELL:
            self._answered_at = asked_at
            self._unanswered = 0
            self._judge("unmeasured")
        except NO_ANSWER as error:
            if self.standing == "unknown" and isinstance(error, StillOpening):
                return
            self._unanswered += 1
            self._judge("silent", "it does not answer")
            self._pool.refuse_waiting()  # others will do
            if self.is_frozen:
                self._on_frozen()
            else:
                self.hurry()
        else:
            self._answered_at = asked_at
            self._unanswered = 0
            if self.standing in {"promoted", "primary"} and answer["place"] is not None:
                await self._pool.expire_connections()  # another server may have its name by now
            self._judge_answer(answer)

    # -- judging -----------------------------------------------------------------------------------

    def _judge_answer(self, answer: asyncpg.Record) -> None:
        if answer["place"] is None:
            self.replayed_lsn, self.timeline = -1, 0
            self._judge_other(answer)
            return
        self.replayed_lsn, self.timeline = answer["place"], answer["timeline"] or 0
        self.was_standby = True
        if not self._primary.tells:
            self._judge("unmeasured")
            return
        lag = self._primary.places.behind(answer["place"], answer["age"])
        if lag is None:  # the primary has not been heard yet
            if self.standing == "unmeasured":
                self._judge("unknown")
        elif self._follows_another(answer):
            self._judge("behind", "it is behind: it follows another timeline", lag)
        elif self._is_too_far(lag):
            self._judge("behind", _cause(answer), lag)
        else:
            self._judge("current", lag=lag)

    def _judge_other(self, answer: asyncpg.Record) -> None:
        """It is no standby."""
        primary = self._primary
        if self.was_standby and primary.is_heard:
            if self._is_primary(answer):
                self._judge("primary", "it is the primary")
            else:
                self._judge("promoted", "it is no standby any more")
            now = asyncio.get_running_loop().time()
            if now >= self._look_elsewhere_at:
                self._look_elsewhere_at = now + _LOOK_ELSEWHERE
                self._session.close()
        elif not self._is_one_of_several or not primary.tells or answer["system"] is None:
            self._judge("unmeasured")
        elif primary.system is None:
            self._judge("unknown")  # the primary has not been heard yet
        elif primary.system == answer["system"]:
            self._judge("primary", "it is the primary")
        else:
            self._judge("unmeasured")

    def _is_primary(self, answer: asyncpg.Record) -> bool:
        """Whether one that was promoted is the primary: with another timeline it is not."""
        primary = self._primary
        return (
            None not in (primary.system, primary.timeline)
            and primary.system == answer["system"]
            and primary.timeline == answer["timeline"]
        )

    def _follows_another(self, answer: asyncpg.Record) -> bool:
        """Whether what it replays is not what the primary writes, however far both are.

        After a failover a standby may go on with the old primary, or with nothing.
        """
        if self._primary.timeline is None or not self.timeline:
            return False
        if answer["received_timeline"] is not None:
            return bool(answer["received_timeline"] != self._primary.timeline)
        return not answer["receives"] and self.timeline != self._primary.timeline

    def _is_too_far(self, lag: Lag) -> bool:
        part = 1.0 if self.standing in READABLE | {"unknown"} else _BACK_AT
        return lag.seconds > self._most_seconds * part or lag.size > self._most_bytes * part

    def _judge(self, standing: Standing, reason: str = "", lag: Lag | None = None) -> None:
        if standing == "unmeasured" != self.standing:
            _log.info(
                "replica_lag_not_measured",
                replica=self._pool.name,
                reason="it is no standby, or a server does not say where it is",
            )
        self.standing = standing
        self.reason = reason
        self.lag = lag


def _cause(answer: asyncpg.Record) -> str:
    if answer["paused"]:
        return "it is behind: replay is paused"
    return "it is behind" if answer["receives"] else "it is behind: it receives nothing"
