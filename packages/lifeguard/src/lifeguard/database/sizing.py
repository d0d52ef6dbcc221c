"""How many sessions the server has, and whether all instances' pools together stay within them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import cast

import asyncpg
import structlog

from lifeguard.database.errors import PoolOversized
from lifeguard.database.fleet import budget
from lifeguard.database.types import ReadConnection
from lifeguard.pool import Pool, PoolClosing, Pooler, PoolError
from lifeguard.settings import Settings

_log = structlog.get_logger("lifeguard.database")

# Seconds between two attempts to ask a server that does not answer; the pool does the connecting.
_PATIENCE = 1.0

AUTO_BEHIND_POOLER = (
    "POOL_INSTANCES=auto counts sessions, and behind a pooler those at the server are the pooler's: set"
    " POOL_INSTANCES to the number of processes"
)
"""Why the service does not start there."""

# One query for all versions: pg_settings has no row for what a server does not know, as
# reserved_connections before 16. A limit of -1 is none.
CAPACITY_COLUMNS = """
current_setting('max_connections')::int AS max_connections,
       (SELECT sum(setting::int)::int FROM pg_settings
         WHERE name IN ('superuser_reserved_connections', 'reserved_connections')) AS reserved,
       (SELECT NULLIF(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT NULLIF(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
           AS database_limit
"""
_CAPACITY = f"SELECT {CAPACITY_COLUMNS}"


@dataclass(frozen=True, slots=True)
class Capacity:
    """Sessions that a server has."""

    max_connections: int
    reserved: int
    """Kept for superusers and `pg_use_reserved_connections`."""
    limit: int | None
    """`CONNECTION LIMIT` of the role or of the database, whichever is lower."""

    @property
    def available(self) -> int:
        """Sessions that ordinary users of this role can have, all services together."""
        ordinary = self.max_connections - self.reserved
        return ordinary if self.limit is None else min(ordinary, self.limit)

    def __str__(self) -> str:
        text = f"{self.available} sessions (max_connections={self.max_connections}"
        text += f", {self.reserved} of them reserved"
        return text + (")" if self.limit is None else f", CONNECTION LIMIT {self.limit})")


@dataclass(frozen=True, slots=True)
class Sizing:
    """What one pool may grow to, and what that means for the server."""

    capacity: Capacity
    instances: int
    max_size: int
    """Of the pool of one instance."""
    headroom: float
    """POOL_HEADROOM."""
    warning: str | None = None
    """One line, when little is left for others: other services, migrations, people."""

    @property
    def demand(self) -> int:
        """Sessions that all instances together may ask for."""
        return self.instances * self.max_size

    @property
    def for_pooler(self) -> str:
        """What a pooler in between has to have for it: on the server's side no more sessions than that has,
        on this side a place for every connection and, with a replica, one more for each instance."""
        return (
            f"the pooler's default_pool_size + reserve_pool_size up to {self.comfortable}, its"
            f" max_client_conn at least {self.demand + self.instances}"
        )

    @property
    def comfortable(self) -> int:
        """Sessions that all instances together may have with POOL_HEADROOM."""
        return int(self.capacity.available * self.headroom)

    @property
    def share(self) -> float:
        """`demand` as part of what the server has, 0 to 1."""
        return self.demand / self.capacity.available if self.capacity.available else 1.0


async def read_capacity(connection: ReadConnection) -> Capacity:
    """Ask the server; one round trip."""
    row = await connection.fetchrow(_CAPACITY)
    if row is None:
        raise AssertionError("a SELECT without FROM gives a row")
    return capacity_of(row)


def capacity_of(row: asyncpg.Record) -> Capacity:
    """What a row with `CAPACITY_COLUMNS` says."""
    limits = [row[name] for name in ("role_limit", "database_limit") if row[name] is not None]
    return Capacity(row["max_connections"], row["reserved"], min(limits, default=None))


def size_pool(settings: Settings, capacity: Capacity, pooler: Pooler | None = None) -> Sizing:
    """Compute the size of one pool: `POOL_MAX_SIZE`, or with `auto` as much as `POOL_HEADROOM` allows.

    Raises PoolOversized when the server cannot serve all instances. Behind a pooler only the pooler's own
    sessions count at the server, so the pools may be larger. With `POOL_INSTANCES=auto` it is the size that
    the pool has while there is no other process.
    """
    if settings.pool_instances == "auto":
        return _size_alone(settings, capacity, pooler)
    instances = settings.pool_instances
    if settings.pool_max_size == "auto":
        max_size = int(capacity.available * settings.pool_headroom / instances)
        if max_size < max(1, settings.pool_min_size):
            raise PoolOversized(
                f"POOL_MAX_SIZE=auto: {max_size} connections for each of POOL_INSTANCES={instances} is"
                f" below POOL_MIN_SIZE={settings.pool_min_size}; the server has {capacity}"
            )
    else:
        max_size = settings.pool_max_size
    sizing = Sizing(capacity, instances, max_size, settings.pool_headroom)
    demand = f"POOL_MAX_SIZE={max_size} x POOL_INSTANCES={instances}: {sizing.demand} connections"
    if pooler is not None:
        return sizing
    if sizing.demand > capacity.available:
        raise PoolOversized(f"{demand}, but the server has {capacity}")
    if sizing.share <= settings.pool_headroom:
        return sizing
    return replace(sizing, warning=f"{demand} of the server's {capacity}")


def _size_alone(settings: Settings, capacity: Capacity, pooler: Pooler | None) -> Sizing:
    if pooler is not None:
        raise PoolOversized(AUTO_BEHIND_POOLER)
    total = budget(capacity.available, capacity.max_connections - capacity.reserved, settings.pool_headroom)
    share = total - 1  # a session is the seat
    if share < 1:
        raise PoolOversized(
            f"POOL_INSTANCES=auto: a process needs 2 sessions, and POOL_HEADROOM={settings.pool_headroom:g}"
            f" leaves {total}; the server has {capacity}"
        )
    most = share if settings.pool_max_size == "auto" else min(settings.pool_max_size, share)
    return Sizing(capacity, 1, most, settings.pool_headroom)


async def fit(pool: Pool, settings: Settings) -> None:
    """Ask the server, as soon as it answers, and resize the pool; warn when that is most of the server.

    Raises PoolOversized, and PoolClosing when the pool is closed before the server answers.
    """
    sizing = size_pool(settings, await _capacity_behind(pool), pool.pooler)
    pool.expect_peers(sizing.instances)
    if settings.pool_max_size == "auto":
        await pool.resize(max_size=sizing.max_size)
    log = _log.bind(pool=pool.name, max_size=sizing.max_size, instances=sizing.instances)
    if sizing.warning:
        log.warning("pool_takes_most_of_the_server", reason=sizing.warning)
    elif pool.pooler is not None:
        log.info("pool_sized", server=str(sizing.capacity), wants=sizing.for_pooler)
    else:
        log.info("pool_sized", server=str(sizing.capacity))


async def _capacity_behind(pool: Pool) -> Capacity:
    while True:
        try:
            async with pool.acquire() as lease:
                return await read_capacity(cast("ReadConnection", lease))
        except PoolClosing:
            raise
        except (PoolError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            _log.debug("pool_sizing_waits", pool=pool.name, reason=str(error))
        await asyncio.sleep(_PATIENCE)
