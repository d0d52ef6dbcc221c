"""How far behind the primary a replica is, asked in the background.

A standby that has stopped replicating answers every read, with data that is older and older. So both servers
are asked for their place in the WAL, on a session each that is none of the pools': when they are busy, or
nobody reads, the answer comes all the same.

The lag in seconds is the time since the primary was where the standby is now, on this process's monotonic
clock. It is not `now() - pg_last_xact_replay_timestamp()`, which grows on an idle primary although nothing is
behind, and depends on two clocks. It grows only while the primary is heard: a primary that is gone writes
nothing, and what its standby has is the newest there is.

A server that is not a standby (a primary, a logical subscriber), or does not tell its position in the WAL,
cannot be measured. It is read while it answers.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Literal, NamedTuple

import asyncpg
import structlog

from lifeguard.database.connect_options import quoted
from lifeguard.pool import Pool, PoolError
from lifeguard.settings import Settings

Standing = Literal["unknown", "current", "unmeasured", "behind", "silent"]
"""unknown: not asked yet, or its pool has no connection; unmeasured: not known; silent: no answer."""

READABLE: frozenset[Standing] = frozenset(("current", "unmeasured"))

# Seconds between two questions, and for the answer to one: together less than the second after which reads
# are to have left a replica that is frozen.
_INTERVAL = 0.3
_PATIENCE = 0.6
# At least so many questions within REPLICA_MAX_LAG, where that is short.
_QUESTIONS_WITHIN_LIMIT = 4
# A replica that was left is read again once it is no further behind than this part of REPLICA_MAX_LAG: one
# that is just about as far behind as it may be does not come and go.
_BACK_AT = 0.5
# Seconds. A timer that fires so late says that this process was stopped; it says nothing about the server.
_STOPPED_FOR = 0.3
# How many places of the primary are remembered: ten minutes.
_MOST_PLACES = 2000

# What was flushed, for a standby gets no more than that.
_PRIMARY = """
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery()
       THEN (pg_catalog.pg_current_wal_flush_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8 END AS place
"""
# Whether there is a receiver may be seen by anybody, what it does may not.
_REPLICA = """
SELECT in_recovery,
       CASE WHEN in_recovery
            THEN (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
       END AS place,
       {timeline} AS timeline,
       CASE WHEN in_recovery THEN pg_catalog.pg_is_wal_replay_paused() END AS paused,
       EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receives,
       EXTRACT(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8
           AS age
FROM pg_catalog.pg_is_in_recovery() AS in_recovery
"""
# What the receiver is at (seen by superusers and pg_read_all_stats only) and what the control file has, which
# may be as old as the last restart point: a timeline below the true one, never above.
_TIMELINE = """
GREATEST((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),
         (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
         (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()))
"""
# The second is for who may not see the control file.
_QUESTIONS = (_REPLICA.format(timeline=_TIMELINE), _REPLICA.format(timeline="0"))
_log = structlog.get_logger("lifeguard.database")


class Lag(NamedTuple):
    seconds: float
    """Infinite where nobody can say."""
    size: int
    """Bytes of WAL."""


class Places:
    """The primary's recent positions in the WAL, in bytes since its beginning, and their times."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_MOST_PLACES)
        self._places: deque[int] = deque(maxlen=_MOST_PLACES)

    @property
    def known(self) -> bool:
        return bool(self._places)

    def note(self, time: float, place: int) -> None:
        if (
            self._places and place < self._places[-1]
        ):  # another server, promoted without what was written last
            self._times.clear()
            self._places.clear()
        if self._places and place == self._places[-1]:
            self._times[-1] = time
            return
        self._times.append(time)
        self._places.append(place)

    def behind(self, place: int, age: float | None) -> Lag | None:
        """How far a server at `place` is behind; None while nothing is known of the primary. `age` is that of
        the last transaction there, in seconds: all there is to go by before the first place that is known.

        Between two places the primary is taken to have written evenly.
        """
        if not self._places:
            return None
        latest = self._times[-1]
        size = max(0, self._places[-1] - place)
        if not size:
            return Lag(0.0, 0)
        after = bisect_right(self._places, place)
        if not after:
            return Lag(max(latest - self._times[0], math.inf if age is None else age), size)
        start, end = self._places[after - 1], self._places[after]
        began, ended = self._times[after - 1], self._times[after]
        return Lag(latest - (began + (ended - began) * (place - start) / (end - start)), size)


class LagWatch:
    """Asks until it is stopped, and knows whether the replica may be read."""

    def __init__(self, settings: Settings, *, primary: Pool, replica: Pool) -> None:
        self._limit = settings.replica_max_lag
        self._interval = min(_INTERVAL, self._limit / _QUESTIONS_WITHIN_LIMIT)
        name = None if settings.pool_pgbouncer == "on" else f"{settings.service_name}: replica lag"
        self._pool = replica
        self._primary = _Aside(primary, name)
        self._replica = _Aside(replica, name)
        self._places = Places()
        self._primary_tells = True
        self._is_standby = False
        """As far as its last answer says; else the primary need not be asked."""
        self._hurry = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._on_look: Callable[[], None] = lambda: None
        self.standing: Standing = "unknown"
        self.lag: Lag | None = None
        """None while it is not known."""
        self.reason = ""
        """Why the replica is not read; empty while it is, and while it is `unknown`."""
        self.replayed_lsn = -1
        self.timeline = 0
        self._question = _QUESTIONS[0]

    @property
    def allows_reading(self) -> bool:
        return self.standing in READABLE

    def start(self, on_look: Callable[[], None]) -> None:
        """Begin to ask; `on_look` is called after each look, whether or not there was an answer."""
        self._on_look = on_look
        loop = asyncio.get_running_loop()
        for run, name in ((self._follow_primary, "primary"), (self._follow_replica, "replica")):
            self._tasks.append(loop.create_task(run(), name=f"replica lag: {name}", context=Context()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def look_soon(self) -> None:
        """The replica has been reached: find out at once whether it may be read."""
        if self.standing not in READABLE:
            self._hurry.set()

    # -- asking ------------------------------------------------------------------------------------

    async def _follow_primary(self) -> None:
        try:
            while True:
                if self._is_awake() and self._is_standby:
                    await self._look_at_primary()
                else:
                    self._primary.close()
                    self._places = Places()
                await asyncio.sleep(self._interval)
        finally:
            self._primary.close()

    async def _look_at_primary(self) -> None:
        try:
            place = (await self._primary.ask(_PRIMARY))["place"]
        except _CANNOT_TELL:
            self._primary_tells = False
            self._hurry.set()
            return
        except _NO_ANSWER as error:
            _log.debug("lag_not_asked", pool="primary", reason=str(error))
            return
        self._primary_tells = True
        if place is None:
            self._primary.close()  # it is not a primary any more
            return
        if not self._places.known:
            self._hurry.set()
        self._places.note(asyncio.get_running_loop().time(), place)

    async def _follow_replica(self) -> None:
        try:
            while True:
                if self._is_awake():
                    await self._look_at_replica()
                else:
                    self._replica.close()
                    self._judge("unknown")
                self._on_look()
                await self._until_due()
        finally:
            self._replica.close()

    async def _until_due(self) -> None:
        try:
            async with asyncio.timeout(self._interval):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    def _is_awake(self) -> bool:
        """Not while the pool has no connection: nobody reads there then, a server that is full has its last
        session for them, and one that may sleep (POOL_MIN_SIZE=0) is left asleep."""
        return self._pool.get_size() > 0

    async def _look_at_replica(self) -> None:
        try:
            answer = await self._ask_replica()
        except PoolError as error:
            _log.debug("lag_not_asked", pool="replica", reason=str(error))
        except _CANNOT_TELL:
            self._judge("unmeasured")
        except _NO_ANSWER as error:
            if self.standing == "unknown" and isinstance(error, _StillOpening):
                return
            self._judge("silent", "it does not answer")
            self._pool.refuse_waiting()  # the primary will do
        else:
            self._judge_answer(answer)

    async def _ask_replica(self) -> asyncpg.Record:
        try:
            return await self._replica.ask(self._question)
        except _CANNOT_TELL:
            if self._question == _QUESTIONS[1]:
                raise
            self._question = _QUESTIONS[1]
            return await self._replica.ask(self._question)

    # -- judging -----------------------------------------------------------------------------------

    def _judge_answer(self, answer: asyncpg.Record) -> None:
        self._is_standby = answer["place"] is not None
        self.replayed_lsn = answer["place"] if self._is_standby else -1
        self.timeline = answer["timeline"] if self._is_standby else 0
        if not self._is_standby or not self._primary_tells:
            self._judge("unmeasured")
            return
        lag = self._places.behind(answer["place"], answer["age"])
        if lag is None:  # the primary has not been heard yet
            if self.standing == "unmeasured":
                self._judge("unknown")
            return
        limit = self._limit if self.standing in READABLE | {"unknown"} else self._limit * _BACK_AT
        if lag.seconds <= limit:
            self._judge("current", lag=lag)
        else:
            self._judge("behind", _cause(answer), lag)

    def _judge(self, standing: Standing, reason: str = "", lag: Lag | None = None) -> None:
        if standing == "unmeasured" != self.standing:
            _log.info(
                "replica_lag_not_measured", reason="it is no standby, or a server does not say where it is"
            )
        self.standing = standing
        self.reason = reason
        self.lag = lag


def _cause(answer: asyncpg.Record) -> str:
    if answer["paused"]:
        return "it is behind: replay is paused"
    return "it is behind" if answer["receives"] else "it is behind: it receives nothing"


class _Aside:
    """One session beside a pool, made as the pool makes its own and kept between the questions."""

    def __init__(self, pool: Pool, name: str | None) -> None:
        self._pool = pool
        self._name = name
        self._connection: asyncpg.Connection | None = None
        self._opening: asyncio.Task[asyncpg.Connection] | None = None

    async def ask(self, question: str) -> asyncpg.Record:
        """The one row that answers. A session that has ended is replaced.

        Raises TimeoutError when no answer comes in time, what says that there is no server, and the pool's
        errors: a server that lets nobody else in is asked over the pool.
        """
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
            async with self._pool.acquire(timeout=_PATIENCE) as lease:
                return _only(await lease.fetchrow(question, timeout=_PATIENCE))
        return await _answer(connection, question)

    async def _opened(self) -> asyncpg.Connection:
        """A new session. What takes longer than the patience for one question goes on until the next."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name=f"{self._pool.name} lag: open")
            self._opening.add_done_callback(self._cut_unless_wanted)
        opening = self._opening
        await asyncio.wait({opening}, timeout=_PATIENCE)
        if not opening.done():
            raise _StillOpening("no session yet")
        self._opening = None
        opening.remove_done_callback(self._cut_unless_wanted)  # it may be still to come
        return opening.result()

    async def _open(self) -> asyncpg.Connection:
        connection = await self._pool.connect_aside()
        try:
            if self._name is not None:
                await connection.execute(f"SET application_name = {quoted(self._name)}", timeout=_PATIENCE)
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


class _StillOpening(TimeoutError):
    """It takes longer than the patience for one question."""


_SESSION_GONE = (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
# What resembles PostgreSQL may have other functions, or allow them to nobody.
_CANNOT_TELL = (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)
_NO_ANSWER = (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)  # a TimeoutError is one


async def _answer(connection: asyncpg.Connection, question: str) -> asyncpg.Record:
    """Raises TimeoutError, and has cut the session then: a cancel request would not be heard either."""
    loop = asyncio.get_running_loop()
    asking = loop.create_task(connection.fetchrow(question))
    try:
        due = loop.time()
        while not asking.done():
            due += _PATIENCE
            await asyncio.wait({asking}, timeout=_PATIENCE)
            if not asking.done() and loop.time() - due < _STOPPED_FOR:
                raise TimeoutError(f"no answer within {_PATIENCE:g} s")
        return _only(asking.result())
    finally:
        if not asking.done():
            connection.terminate()
            await asyncio.wait({asking})
            asking.exception()


def _only(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise AssertionError("a SELECT without WHERE gives a row")
    return row
