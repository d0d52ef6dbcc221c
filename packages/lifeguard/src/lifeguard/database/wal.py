"""Where the primary is in the WAL, asked in the background: what replicas are measured by."""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from contextvars import Context
from typing import NamedTuple, Protocol

import structlog

from lifeguard.database.aside import CANNOT_TELL, NO_ANSWER, PATIENCE, Aside
from lifeguard.pool import Pool

# How many places of the primary are remembered: ten minutes.
_MOST_PLACES = 2000
# Seconds between two questions, however many wait for an answer.
_INTERVAL_AWAITED = 0.01

# What was flushed, for a standby gets no more than that. The name of a WAL file begins with its timeline.
_PRIMARY = """
SELECT CASE WHEN NOT in_recovery
            THEN (pg_catalog.pg_current_wal_flush_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
       END AS place,
       CASE WHEN NOT in_recovery
            THEN (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
       END AS written,
       {timeline} AS timeline,
       {system} AS system
FROM pg_catalog.pg_is_in_recovery() AS in_recovery
"""
TIMELINE = """
CASE WHEN NOT in_recovery
     THEN ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_flush_lsn()), 8))
          ::pg_catalog.bit(32)::pg_catalog.int4
END
"""
"""Of one that is not in recovery."""
SYSTEM = "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
# The second is for who may not see the control file, or where there is none.
_QUESTIONS = (
    _PRIMARY.format(timeline=TIMELINE, system=SYSTEM),
    _PRIMARY.format(timeline="NULL::pg_catalog.int4", system="NULL::pg_catalog.int8"),
)

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


class Written(NamedTuple):
    """How far the primary has written its WAL."""

    timeline: int | None
    """None where it does not say."""
    lsn: int
    """Bytes since its beginning, those that are not flushed yet included."""


class Follower(Protocol):
    """Who is measured by the primary."""

    @property
    def needs_primary(self) -> bool:
        """Whether it is awake, and could be measured."""
        ...

    def hurry(self) -> None:
        """The primary has been heard for the first time, or turned out not to tell where it is."""
        ...


class PrimaryWatch:
    """Asks the primary until it is stopped, while a follower needs that."""

    def __init__(self, pool: Pool, name: str, interval: float) -> None:
        self._pool = pool
        self._interval = interval
        self._session = Aside(pool, name, _QUESTIONS)
        self._followers: tuple[Follower, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self.places = Places()
        self.tells = True
        """Whether it says where it is."""
        self.is_heard = False
        """Whether it has answered the last question, as a primary."""
        self.timeline: int | None = None
        """None while it is not known."""
        self.system: int | None = None
        """Its cluster's identifier; standbys have the same. None while it is not known."""
        self.written: Written | None = None
        """None while it is not known."""
        self._hurry_up = asyncio.Event()
        self._awaited: list[asyncio.Future[Written | None]] = []

    def start(self, followers: Iterable[Follower]) -> None:
        self._followers = tuple(followers)
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"{self._pool.name} lag", context=Context()
        )

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def written_now(self) -> Written | None:
        """How far it has written, asked after this call has begun; None if it does not say. One answer serves
        all that wait for the question to be sent."""
        answer: asyncio.Future[Written | None] = asyncio.get_running_loop().create_future()
        self._awaited.append(answer)
        self._hurry_up.set()
        await asyncio.wait({answer}, timeout=PATIENCE)
        return answer.result() if answer.done() else None

    async def _run(self) -> None:
        try:
            while True:
                awaited, self._awaited = self._awaited, []
                if any(follower.needs_primary for follower in self._followers):
                    await self._look()
                else:
                    self._session.close()
                    self.places = Places()
                    self.is_heard = False
                for answer in awaited:
                    answer.set_result(self.written if self.is_heard else None)
                await self._until_due()
        finally:
            self._session.close()

    async def _until_due(self) -> None:
        await asyncio.sleep(_INTERVAL_AWAITED)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval - _INTERVAL_AWAITED):
                await self._hurry_up.wait()
        self._hurry_up.clear()

    async def _look(self) -> None:
        try:
            answer = await self._session.ask()
        except CANNOT_TELL:
            self.tells = False
            self._hurry()
            return
        except NO_ANSWER as error:
            self.is_heard = False
            _log.debug("lag_not_asked", pool=self._pool.name, reason=str(error))
            return
        self.tells = True
        self.is_heard = answer["place"] is not None
        if not self.is_heard:
            self._session.close()  # it is not a primary any more
            return
        self.timeline, self.system = answer["timeline"], answer["system"]
        self.written = Written(self.timeline, answer["written"])
        if not self.places.known:
            self._hurry()
        self.places.note(asyncio.get_running_loop().time(), answer["place"])

    def _hurry(self) -> None:
        for follower in self._followers:
            follower.hurry()
