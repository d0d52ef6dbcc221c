"""Whether traffic should come here: found out in the background, so that probes are answered at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import asyncpg
import structlog

from lifeguard.database import Connection, Database, DatabaseUnavailable, MigrationError, schema
from lifeguard.database.connect_options import with_remedy
from lifeguard.observability import PoolNumbers, Scrubber, numbers
from lifeguard.pool import NO_WRITABLE_SERVER, PoolError, PoolStats
from lifeguard.web.drain import Drain

Status = Literal["ready", "degraded", "not ready", "draining"]

# Seconds: between two looks, and for one.
_LOOK_AGAIN = 0.5
_LOOK_AGAIN_WHEN_READY = 15.0
_PATIENCE = 5.0

_NOT_REACHED = "the database has not been reached yet"
_NO_PLACE = "the server has no place for this process"
_OVERSIZED = "the pools may ask for more sessions than the server has"
_REPLICA_NOT_READ = "reads go to the primary, not to the replica"
_NO_REPLICA_READ = "reads go to the primary, not to a replica"

_log = structlog.get_logger("lifeguard.readiness")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a service is not simply ready."""

    kind: str
    """The class of the fault, for anybody: no host, user or revision, and no word of driver or server."""
    said: str = ""
    """All that is known, for the log and for developers; empty where that is the class."""

    def __str__(self) -> str:
        return self.said or self.kind


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` says. `reasons` is empty where all is well."""

    status: Status
    reasons: tuple[Reason, ...] = ()
    schema: schema.Standing | None = None
    """None until the database has been reached."""


class ReadinessWatch:
    """Looks whether the database answers and its schema is current, until both are so; then rarely, and
    without POOL_MIN_SIZE only after somebody has used it.

    A database that goes away later takes nobody out of service: every replica would leave at once,
    and with them those that could still answer something. That is `degraded`. So is a primary pool whose
    server takes no writes any more: reads are answered, and each replica would leave for the same reason.
    A replica that is not read leaves it `ready`, with a reason that says so.
    """

    def __init__(
        self,
        database: Database,
        drain: Drain,
        scrub: Scrubber,
        *,
        migrations: Path,
        accepts_newer_schema: bool = True,
    ) -> None:
        self._database = database
        self._migrations = migrations
        self._accepts_newer_schema = accepts_newer_schema
        self._schema: schema.Standing | None = None
        self._drain = drain
        self._scrub = scrub
        self._obstacle: Reason | None = Reason(_NOT_REACHED)
        self._said: Readiness | None = None
        self._lent_at_last_look = 0

    def now(self) -> Readiness:
        """The state of this moment, without any I/O."""
        readiness = replace(self._judge(), schema=self._schema)
        if readiness != self._said:
            self._said = readiness
            _log.info(
                "readiness",
                status=readiness.status,
                reasons=[str(reason) for reason in readiness.reasons],
                schema=readiness.schema,
            )
        return readiness

    def _judge(self) -> Readiness:
        if self._drain.draining:
            return Readiness("draining", (Reason("the service is shutting down"),))
        if self._database.oversized:
            return Readiness("not ready", (Reason(_OVERSIZED, str(self._database.oversized)),))
        primary, *_ = numbers(self._database, self._scrub)
        if primary.fleet and primary.fleet.standing == "full":
            return Readiness("not ready", (Reason(_NO_PLACE),))
        if self._obstacle:
            return Readiness("not ready", (self._obstacle,))
        trouble = _trouble_of(primary)
        if trouble:
            return Readiness("degraded", (self._scrubbed(trouble),))
        # The primary answers the reads: nobody goes without, so it is no reason to leave the balancer.
        return Readiness("ready", tuple(self._replicas_not_read()))

    def _replicas_not_read(self) -> Iterator[Reason]:
        obstacles = self._database.replica_obstacles
        replicas = len(self._database.guards) - 1
        if 1 < replicas == len(obstacles):
            yield Reason(_NO_REPLICA_READ)
        for name, obstacle in obstacles.items():
            yield Reason(
                f"{name} is not read: {obstacle}" if replicas > 1 else f"{_REPLICA_NOT_READ}: {obstacle}"
            )

    def _scrubbed(self, reason: Reason) -> Reason:
        return replace(reason, said=self._scrub(reason.said))

    async def run(self) -> None:
        """Look until the service drains."""
        while True:
            try:
                if self._obstacle or self._is_in_use():
                    await self._look()
            except Exception:  # noqa: BLE001 - if the watch died, its last verdict would stay
                _log.exception("readiness_look_failed")
            self._lent_at_last_look = self._database.primary.stats().borrowed
            interval = _LOOK_AGAIN if self._obstacle else _LOOK_AGAIN_WHEN_READY
            self.now()
            if await self._drain.wait(interval):
                return

    def _is_in_use(self) -> bool:
        """Whether the database is awake anyway: the pool keeps connections, or has lent some since the last
        look. Else (POOL_MIN_SIZE=0) what was found last still holds, and to look would wake a server that
        sleeps while it is not used, or keep it from falling asleep."""
        pool = self._database.primary
        return pool.get_min_size() > 0 or pool.stats().borrowed > self._lent_at_last_look

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE), self._connected() as connection:
                state = await schema.schema_state(connection, self._migrations)
        except (
            PoolError,
            DatabaseUnavailable,
            MigrationError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            OSError,
        ) as error:
            # Once it has been ready, a look that fails says nothing about the schema.
            if self._obstacle:
                self._obstacle = self._scrubbed(self._describe(error))
            return
        self._schema = state.standing
        self._obstacle = self._obstacle_of(state)

    def _connected(self) -> AbstractAsyncContextManager[Connection]:
        """In a lane of its own: how the requests fare says nothing about the schema."""
        return self._database.connection(lane="readiness", priority="critical")

    def _obstacle_of(self, state: schema.SchemaState) -> Reason | None:
        kind = f"the schema is {state.standing}"
        if state.standing == "ahead" and not self._accepts_newer_schema:
            return Reason(kind, f"{state}; {schema.FOREIGN}")
        return Reason(kind, str(state)) if state.is_old else None

    def _describe(self, error: Exception) -> Reason:
        stats = self._database.primary.stats()
        if stats.last_error:
            return _reason(_NOT_REACHED, stats)
        return Reason(_NOT_REACHED, f"{_NOT_REACHED}: {str(error) or type(error).__name__}")


def _trouble_of(pool: PoolNumbers) -> Reason | None:
    """What a pool that has been reached before suffers from."""
    if pool.stats.size == 0 and pool.stats.last_error:
        return _reason("no connection", pool.stats)
    if pool.stats.fault == NO_WRITABLE_SERVER:
        return Reason(_words(NO_WRITABLE_SERVER))
    if pool.breaker.state != "closed":
        return Reason(f"the breaker is {pool.breaker.state}")
    return None


def _reason(what: str, stats: PoolStats) -> Reason:
    """The class of the fault, which needs no knowledge of the driver, and then the driver's words."""
    kind = f"{what}: {_words(stats.fault or 'other')}"
    return Reason(kind, f"{kind}: {with_remedy(stats.last_error or '')}")


def _words(fault: str) -> str:
    return fault.replace("_", " ")
