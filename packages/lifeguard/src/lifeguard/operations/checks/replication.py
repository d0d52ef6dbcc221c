"""Checks of replication: how far a replica is behind, and whether a COMMIT waits for a standby in vain."""

from __future__ import annotations

import asyncio

from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.reaching import Unreachable, connect
from lifeguard.operations.checks.server import Server, size, span

PATIENCE = 2.0
"""Seconds that a replica has for what the primary had written when it was asked."""
_INTERVAL = 0.02

_WRITTEN = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::int8 END
"""
_REPLAYED = """
SELECT (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8 AS place,
       pg_is_wal_replay_paused() AS paused,
       EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) AS receives,
       extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 AS age
"""
_SYNCHRONOUS = """
SELECT current_setting('synchronous_standby_names') AS names,
       current_setting('synchronous_commit') AS waits,
       count(*) FILTER (WHERE sync_state IN ('sync', 'quorum'))::int AS synchronous,
       count(*) FILTER (WHERE pid IS NOT NULL AND sync_state IS NULL)::int AS hidden,
       string_agg(application_name || ' ' || sync_state, ', ' ORDER BY application_name) AS standbys
FROM pg_stat_replication
"""


async def lag(server: Server) -> Result:
    """Whether the replica has what the primary has written until now."""
    if not server.facts.standby:
        return Result("ok", "it is no standby: how far it is behind cannot be measured")
    try:
        primary, _ = await connect(server.settings, "primary", target_session_attrs="any")
    except Unreachable as error:
        advice = "mend what the primary's lines say"
        return Result("unknown", f"could not ask the primary: {error.reason}", advice)
    try:
        written = await primary.fetchval(_WRITTEN)
    finally:
        primary.terminate()
    if written is None:
        return Result("unknown", "the primary's URL leads to a standby", "mend what the primary's lines say")
    return await _compare(server, written)


async def _compare(server: Server, written: int) -> Result:
    until = asyncio.get_running_loop().time() + PATIENCE
    row = await server.connection.fetchrow(_REPLAYED)
    while row is not None and (row["place"] or 0) < written and not row["paused"]:
        if asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(_INTERVAL)
        row = await server.connection.fetchrow(_REPLAYED)
    assert row is not None
    behind = written - (row["place"] or 0)
    if row["paused"]:
        text = f"replay is paused, {size(max(behind, 0))} of WAL behind"
        return Result("warn", text, "on the replica, as a superuser: SELECT pg_wal_replay_resume();")
    if behind <= 0:
        if row["receives"]:
            return Result("ok", "it has all that the primary had written")
        text = "it has all that the primary had written, and receives nothing more now"
        return Result(
            "warn", text, "look at its log, primary_conninfo, and restore_command if it reads an archive"
        )
    age = row["age"] or 0.0
    text = f"{size(behind)} of WAL behind, its last transaction is {span(age)} old"
    settings = server.settings
    if age > settings.replica_max_lag or behind > (settings.replica_max_lag_bytes or float("inf")):
        return Result(
            "warn",
            f"{text}: it is not read (REPLICA_MAX_LAG={settings.replica_max_lag:g})",
            "on the replica: SELECT * FROM pg_stat_wal_receiver; and its log; does a long query hold up"
            " replay (max_standby_streaming_delay)?",
        )
    return Result("ok", text)


async def synchronous(server: Server) -> Result:
    """Whether COMMIT waits for a standby, and there is one."""
    row = await server.connection.fetchrow(_SYNCHRONOUS)
    assert row is not None
    if not row["names"]:
        return Result("ok", "no COMMIT waits for a standby (synchronous_standby_names is empty)")
    wants = f"synchronous_standby_names = {row['names']!r}"
    if row["waits"] in {"off", "local"}:
        return Result("ok", f"{wants}, but synchronous_commit = {row['waits']}: no COMMIT waits")
    if row["synchronous"]:
        return Result("ok", f"{wants}: {row['standbys']}")
    if row["hidden"]:
        text = f"{wants}; could not look which of {row['hidden']} standbys are: permission denied"
        return Result("unknown", text, server.grant)
    return Result(
        "fail",
        f"{wants}, and no such standby is connected: every COMMIT waits for ever",
        "start the standby; or go on without, as a superuser: ALTER SYSTEM SET synchronous_standby_names ="
        " ''; SELECT pg_reload_conf();",
    )
