"""One process among those that share a server (`POOL_INSTANCES=auto`): it asks in the background who is
there, and resizes its pool to its share. What it decides is in `fleet.py`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Literal

import asyncpg
import structlog

from lifeguard.database.errors import PoolOversized
from lifeguard.database.fleet import Facts, Plan, Terms, Verdict, confirm, decide, interval, plan
from lifeguard.database.fleet_seat import FleetSeat
from lifeguard.pool import PEERS_ATTEMPTS_A_SECOND, Pool, PoolError
from lifeguard.settings import Settings

FleetStanding = Literal["apart", "waiting", "member", "full"]
"""apart: nothing is known of the others, or the pool sleeps; waiting: until they have shrunk; full:
there is no place at the server."""

# Seconds before the first question: of a hundred processes that are started in the same instant few knock at
# the same time.
_FIRST_JITTER = 0.25
# How much sooner the next look comes while the claim is not what it should be.
_SOONER = 1 / 4
# Seconds between two tries of one that found no room.
_COME_AGAIN = 5.0
_NO_ANSWER = (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_FULL = "the processes that share the server have all that it can share out"

_log = structlog.get_logger("lifeguard.database")


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What a process knows of the fleet."""

    standing: FleetStanding = "apart"
    instances: int = 0
    """Processes that share the server, this one included; 0 while that is not known."""
    share: int = 0
    """Connections that are due to each of them."""
    claim: int = 0
    """Connections that this one's pool may have now."""
    places: int = 0
    """Most processes that can share the server: a seat and a connection for each."""
    orphans: int = 0
    """Sessions of processes that are gone, or have no seat yet."""


class Fleet:
    """Keeps one pool within its share until it is stopped."""

    pace = 1.0
    """All times but SETTLE are divided by it."""

    def __init__(self, pool: Pool, settings: Settings, seat: FleetSeat | None = None) -> None:
        """`settings.service_name` is a `process_name()`. The pool opens nothing before there is an answer;
        one that is to keep no connections is left alone until somebody needs one."""
        self._pool = pool
        self._least = settings.pool_min_size
        most = settings.pool_max_size
        self._terms = Terms(
            settings.pool_headroom, None if most == "auto" else most, max(1, settings.pool_min_size)
        )
        self._seat = seat or FleetSeat(pool, settings.service_name)
        self._claim = 0
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._cannot_shrink_to = 0
        self.report = FleetReport()
        self.settled = asyncio.Event()
        """Set once the pool may open connections, or it is known why not."""
        self._on_oversized: Callable[[PoolOversized], None] = lambda _: None
        if self._least:
            pool.hold()

    def start(self, on_oversized: Callable[[PoolOversized], None]) -> None:
        """Begin to ask. `on_oversized` is told why the processes cannot find each other."""
        self._on_oversized = on_oversized
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"{self._pool.name} fleet", context=Context()
        )

    async def stop(self) -> None:
        """Ask no more. The server shows what the pool still has."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def connection_opened(self) -> None:
        """The pool has one: whoever has no seat should have one."""
        if not self._seat.is_there:
            self._hurry.set()

    # -- looking -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._pause(random.uniform(0, _FIRST_JITTER))  # noqa: S311 - jitter, not a secret
            while True:
                pause = await self._look()
                await self._pause(pause * random.uniform(0.5, 1.5))  # noqa: S311 - the same
        except PoolOversized as error:
            self._on_oversized(error)
            _log.error("pool_oversized", reason=str(error))
            self._pool.hold(str(error))
            self.settled.set()
        finally:
            self._seat.cut()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds / self.pace):
                await self._hurry.wait()
        except TimeoutError:
            pass
        self._hurry.clear()

    async def _look(self) -> float:
        """Ask, and do what follows. Gives the seconds until the next look."""
        if self._sleeps():
            return await self._fall_asleep()
        if not self._seat.is_there and self._waits_for_pool():
            return interval(1)
        try:
            if self._claim and not self._seat.is_there:
                # It was lost, and what was claimed on it is still held. The others come back, too.
                spread = self.report.instances / PEERS_ATTEMPTS_A_SECOND
                await asyncio.sleep(random.uniform(0, 2 * spread / self.pace))  # noqa: S311 - the same
                await self._seat.say(self._claim)
            facts = await self._seat.ask()
            return await self._follow(facts)
        except _NO_ANSWER as error:
            return await self._bear(error)

    def _sleeps(self) -> bool:
        """Whether the pool has no connection because none is needed."""
        if self._least:
            return False
        stats = self._pool.stats()
        quiet = not (self._sessions() or stats.waiting or self._pool.is_held)
        return quiet and stats.last_error is None

    def _waits_for_pool(self) -> bool:
        """Whether the server has to be found first, which is the pool's task: it has the right pauses."""
        return not (self._pool.is_held or self._pool.get_size())

    def _sessions(self) -> int:
        """What the server may count."""
        stats = self._pool.stats()
        return stats.size + stats.opening + stats.closing

    async def _fall_asleep(self) -> float:
        """The next connection is the first again: that of a newcomer."""
        if self._claim:
            await self._resize(1)
            self._claim = 0
        await self._seat.leave()
        self._tell(FleetReport())
        self.settled.set()
        return interval(1)

    async def _bear(self, error: Exception) -> float:
        """No answer. What was claimed stays claimed."""
        self._seat.cut()
        _log.debug("fleet_not_asked", pool=self._pool.name, reason=str(error))
        if self._claim:
            return interval(1) * _SOONER
        if isinstance(error, asyncpg.TooManyConnectionsError):
            self._find_full(self.report.places)
            return _COME_AGAIN
        if await self._resize(1):
            self._pool.proceed()  # it finds out, and says, what is wrong
        self.settled.set()
        return interval(1)

    # -- acting ------------------------------------------------------------------------------------

    async def _follow(self, facts: Facts) -> float:
        decided = decide(facts, self._terms, self._claim)
        if decided is Verdict.WAIT and not self._claim:
            decided = 0
        if isinstance(decided, int) and (decided > self._claim or not self._is_seated(facts)):
            before = self._claim
            await self._seat.say(decided)
            facts = await self._seat.ask()
            allowed = confirm(facts, self._terms, decided, before)
            if allowed is Verdict.WAIT:
                allowed = 0
            if isinstance(allowed, int) and allowed != decided:
                await self._seat.say(allowed)
            decided = allowed
        if isinstance(decided, Verdict):
            return await self._stay_outside(decided, facts)
        await self._take(decided)
        found = plan(facts, self._terms)
        self._note(facts, found)
        pause = interval(found.members)
        return pause if self._claim == found.share else pause * _SOONER

    @staticmethod
    def _is_seated(facts: Facts) -> bool:
        return any(seat.session == facts.mine for seat in facts.seats)

    async def _take(self, claim: int) -> None:
        """Have the pool at what is claimed; a lower claim is said when the pool has shrunk."""
        if not claim:
            self._pool.hold()
            return
        if not await self._resize(claim):
            return
        self._pool.proceed()
        if claim < self._claim:
            claim = max(claim, min(self._claim, self._sessions()))
            if claim < self._claim:
                await self._seat.say(claim)
        self._claim = claim
        self.settled.set()

    async def _resize(self, size: int) -> bool:
        """Whether the pool could be made so large."""
        try:
            await self._pool.resize(min_size=min(self._least, size), max_size=size)
        except ValueError as error:  # what lanes were promised needs more
            if size != self._cannot_shrink_to:
                self._cannot_shrink_to = size
                _log.warning("pool_cannot_shrink", pool=self._pool.name, reason=str(error), share=size)
            return False
        self._cannot_shrink_to = 0
        return True

    async def _stay_outside(self, verdict: Verdict, facts: Facts) -> float:
        """There is no place, or no room now. What the pool still has in use counts at the server until it
        comes back."""
        self._claim = 0
        found = plan(facts, self._terms)
        await self._seat.leave()
        if verdict is Verdict.NO_PLACE:
            self._find_full(found.places, instances=len(facts.seats), orphans=facts.orphans)
            return _COME_AGAIN
        self._pool.hold()
        self._note(facts, found)
        return interval(found.members) / 2

    def _find_full(self, places: int, *, instances: int = 0, orphans: int = 0) -> None:
        self._pool.hold(_FULL)
        self._tell(FleetReport("full", instances, 0, 0, places, orphans))
        self.settled.set()

    # -- telling -----------------------------------------------------------------------------------

    def _note(self, facts: Facts, found: Plan) -> None:
        self._pool.expect_peers(max(1, found.members))
        standing: FleetStanding = "member" if self._claim else "waiting"
        self._tell(
            FleetReport(standing, found.members, found.share, self._claim, found.places, facts.orphans)
        )

    def _tell(self, report: FleetReport) -> None:
        """Say it, if it is news."""
        before, self.report = self.report, report
        if replace(before, orphans=0) == replace(report, orphans=0):
            return
        log = _log.bind(pool=self._pool.name, instances=report.instances, places=report.places)
        match report.standing:
            case "member":
                log.info("pool_share", share=report.share, max_size=report.claim)
            case "waiting":
                log.info("pool_waits_for_share", share=report.share)
            case "full":
                log.warning("pool_has_no_place", reason=_FULL)
            case "apart":
                pass
