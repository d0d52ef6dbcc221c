"""Checks of the server's sessions: who has them, who may ask for more, and what some of them hold up."""

from __future__ import annotations

import asyncpg

from lifeguard.database import PoolOversized
from lifeguard.database.fleet import budget
from lifeguard.database.sizing import AUTO_BEHIND_POOLER, Capacity, read_capacity, size_pool
from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.fleet import present
from lifeguard.operations.checks.server import Server, identifier, span, variable_of
from lifeguard.settings import Settings

NEARLY_FULL = 0.8
"""Part of the sessions that may be in use before it is said."""
LONG_TRANSACTION = 60.0
"""Seconds. The service's own are over by STATEMENT_TIMEOUT and IDLE_IN_TRANSACTION_TIMEOUT."""
_SHOWN = 8

# Whose `backend_type` is hidden is a client if it has a role and a database. Those that send WAL have places
# of their own (max_wal_senders) and parallel workers as well. A tag is behind the service's name, and before
# that, with POOL_INSTANCES=auto, what tells one process from the other.
_USERS = """
SELECT usename::text AS role,
       regexp_replace(split_part(application_name, ':', 1), '#[0-9a-f]{6}( seat [0-9]+)?$', '') AS name,
       count(*)::int AS number,
       count(*) FILTER (WHERE state = 'active')::int AS active,
       count(*) FILTER (WHERE state LIKE 'idle in transaction%')::int AS in_transaction,
       count(*) FILTER (WHERE state IS NULL)::int AS hidden,
       count(*) FILTER (WHERE usename = current_user OR datname = current_database())::int AS limited
FROM pg_stat_activity
WHERE backend_type = 'client backend'
   OR backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL
GROUP BY 1, 2 ORDER BY number DESC, 1, 2
"""
_LONG = """
SELECT pid, usename::text AS role, application_name AS name, state,
       extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND extract(epoch FROM clock_timestamp() - xact_start) > $1::float8
ORDER BY xact_start
"""
_HIDDEN = """
SELECT count(*)::int FROM pg_stat_activity
WHERE backend_type IS NULL AND usesysid IS NOT NULL AND datid IS NOT NULL
"""
_PREPARED = """
SELECT gid, owner::text AS owner, database::text AS database,
       extract(epoch FROM clock_timestamp() - prepared)::float8 AS seconds
FROM pg_prepared_xacts WHERE extract(epoch FROM clock_timestamp() - prepared) > $1::float8
ORDER BY prepared
"""


async def sessions(server: Server) -> Result:
    """How many sessions are in use, and by whom."""
    capacity = await read_capacity(server.connection)
    users = await server.connection.fetch(_USERS)
    used = sum(row["number"] for row in users)
    ordinary = capacity.max_connections - capacity.reserved
    left = ordinary - used
    if capacity.limit is not None:
        left = min(left, capacity.limit - sum(row["limited"] for row in users))
    lines = tuple(map(_user, users[:_SHOWN]))
    if len(users) > _SHOWN:
        lines += (f"and {sum(row['number'] for row in users[_SHOWN:])} of others",)
    text = f"{used} in use, {max(left, 0)} left for this role, of {capacity}"
    if left <= 0:
        return Result("fail", text, _room(server, users), lines)
    if used >= NEARLY_FULL * ordinary:
        return Result("warn", text, _room(server, users), lines)
    return Result("ok", text, lines=lines)


def _user(row: asyncpg.Record) -> str:
    doing = [f"{row['active']} active"] if row["active"] else []
    if row["in_transaction"]:
        doing.append(f"{row['in_transaction']} idle in transaction")
    if row["hidden"]:
        doing.append(f"{row['hidden']} hidden")
    more = f" ({', '.join(doing)})" if doing else ""
    return f"{row['number']:>5}  {row['name'] or 'without a name'}, role {row['role']}{more}"


def _room(server: Server, users: list[asyncpg.Record]) -> str:
    """How to get some."""
    most = users[0]
    name = str(most["name"]).replace("'", "''")
    settings = server.settings
    if most["name"] == settings.service_name:
        first = f"lower POOL_MAX_SIZE={settings.pool_max_size} or POOL_INSTANCES={settings.pool_instances}"
    else:
        which = f"application_name LIKE '{name}%' AND state = 'idle'"
        end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which};"  # noqa: S608 - advice
        first = f"end what idles: {end}"
    return f"{first} or raise max_connections at the server, which takes a restart"


async def sizing(server: Server) -> Result:
    """What all instances may ask for, beside what the server has and what others have of it now."""
    settings = server.settings
    if settings.pool_instances == "auto":
        return await _shared(server)
    capacity = await read_capacity(server.connection)
    instances = settings.pool_instances
    try:
        sizing = size_pool(settings, capacity, server.pooler)
    except PoolOversized as error:
        return Result("fail", str(error), _smaller(capacity, settings, instances))
    product = f"{instances} x {sizing.max_size} = {sizing.demand}"
    if server.pooler is not None:
        return Result("ok", f"{product} through the pooler; {sizing.for_pooler}")
    if sizing.warning:
        return Result("warn", sizing.warning, _smaller(capacity, settings, instances))
    users = await server.connection.fetch(_USERS)
    others = sum(row["number"] for row in users if row["name"] != settings.service_name)
    text = f"{product} (POOL_INSTANCES x POOL_MAX_SIZE, a rollout's surge included) of {capacity}"
    if sizing.demand + others > capacity.max_connections - capacity.reserved:
        advice = _smaller(capacity, settings, instances, others)
        return Result("warn", f"{text}, and others have {others} of these now", advice)
    return Result("ok", text)


async def _shared(server: Server) -> Result:
    """Who shares the server now, whether another one has a place, and whether others have a part of it."""
    if server.pooler is not None:
        advice = f"set POOL_INSTANCES, or give {variable_of(server.role)} the server's own host and port"
        return Result("fail", AUTO_BEHIND_POOLER, advice)
    connection, settings = server.connection, server.settings
    found = await present(connection, settings)
    text = f"POOL_INSTANCES=auto: {found}"
    if not found.has_place:
        advice = "run fewer processes, or raise max_connections at the server, which takes a restart"
        return Result("warn" if found.next.places else "fail", text, advice)
    capacity = await read_capacity(connection)
    ordinary = capacity.max_connections - capacity.reserved
    if found.next.budget < budget(capacity.available, ordinary, settings.pool_headroom):
        users = await connection.fetch(_USERS)
        others = sum(row["number"] for row in users if row["name"] != settings.service_name)
        advice = (
            "lower POOL_HEADROOM or raise max_connections at the server; of services that count their"
            " processes the headrooms should add up to less than 1"
        )
        return Result("warn", f"{text}; others have {others} of these now", advice)
    return Result("ok", text)


def _smaller(capacity: Capacity, settings: Settings, instances: int, others: int = 0) -> str:
    """Sizes that fit, beside so many sessions of others."""
    fits = max(0, int(capacity.available * settings.pool_headroom) - others) // instances
    more = "or raise max_connections at the server; `python -m app sizing` has the numbers"
    if fits < max(1, settings.pool_min_size):
        return f"put PgBouncer in between (docs/pool.md#pgbouncer-and-other-poolers), {more}"
    return f"POOL_MAX_SIZE={fits}, or fewer POOL_INSTANCES, {more}"


async def transactions(server: Server) -> Result:
    """Transactions that are open for long: they keep locks, and dead rows from being cleaned up."""
    rows = await server.connection.fetch(_LONG, LONG_TRANSACTION)
    hidden = 0 if server.facts.sees_all else await server.connection.fetchval(_HIDDEN)
    unseen = f"; those of {hidden} sessions of other roles are hidden" if hidden else ""
    if rows:
        lines = tuple(
            f"process {row['pid']}, {row['name'] or 'without a name'}, role {row['role']}, {row['state']},"
            f" for {span(row['seconds'])}"
            for row in rows[:_SHOWN]
        )
        text = f"{len(rows)} open for longer than {span(LONG_TRANSACTION)}: locks and dead rows stay{unseen}"
        end = f"if nobody needs it: SELECT pg_terminate_backend({rows[0]['pid']});"
        return Result("warn", text, end, lines)
    text = f"none open for longer than {span(LONG_TRANSACTION)}"
    if hidden:
        return Result("unknown", f"{text} of this role{unseen}: permission denied", server.grant)
    return Result("ok", text)


async def prepared(server: Server) -> Result:
    """Prepared transactions that nobody has ended: they keep locks and dead rows, over restarts, too."""
    rows = await server.connection.fetch(_PREPARED, LONG_TRANSACTION)
    if not rows:
        return Result("ok", f"none for longer than {span(LONG_TRANSACTION)}")
    lines = tuple(
        f"{row['gid']!r} of {row['owner']} in {row['database']}, for {span(row['seconds'])}"
        for row in rows[:_SHOWN]
    )
    gid = str(rows[0]["gid"]).replace("'", "''")
    return Result(
        "warn",
        f"{len(rows)} prepared for longer than {span(LONG_TRANSACTION)}: they keep locks, over restarts, too",
        f"as {identifier(rows[0]['owner'])} in {identifier(rows[0]['database'])}: ROLLBACK PREPARED '{gid}';"
        " or COMMIT PREPARED, as its coordinator says",
        lines,
    )
