"""Checks of what the server has to do in time: freezing old rows, throwing old WAL away."""

from __future__ import annotations

from typing import NamedTuple

from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.server import Server, identifier, size

# Of 2^31 numbers: at 2.1 billion in use the server gives out no more, and takes no more writes.
# Autovacuum begins to freeze at autovacuum_freeze_max_age, so beyond the sum it does not keep up.
BEHIND = 300_000_000
URGENT = 1_500_000_000
LARGE_SLOT = 2**30  # bytes of WAL

_AGES = """
SELECT datname::text AS database, age(datfrozenxid) AS transactions, mxid_age(datminmxid) AS multixacts,
       current_setting('autovacuum_freeze_max_age')::int AS freezes_at,
       current_setting('autovacuum_multixact_freeze_max_age')::int AS freezes_multixacts_at,
       current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS autovacuum
FROM pg_database WHERE datallowconn
ORDER BY GREATEST(age(datfrozenxid), mxid_age(datminmxid)) DESC LIMIT 1
"""
_SLOTS = """
SELECT slot_name::text AS name, active, to_jsonb(slot) ->> 'wal_status' AS status,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
        - restart_lsn)::bigint AS kept,
       (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS bound
FROM pg_replication_slots AS slot
ORDER BY kept DESC NULLS LAST
"""


class Ages(NamedTuple):
    """Of the oldest database, in numbers of transactions."""

    database: str
    transactions: int
    multixacts: int
    freezes_at: int
    freezes_multixacts_at: int
    autovacuum: bool


async def wraparound(server: Server) -> Result:
    """How many transaction ids are in use: without freezing they run out, and the server stops writing."""
    row = await server.connection.fetchrow(_AGES)
    assert row is not None, "a server has a database"
    return judge_ages(Ages(**row))


def judge_ages(ages: Ages) -> Result:
    ahead = (
        f"{identifier(ages.database)} is {ages.transactions:,} transactions old, {ages.multixacts:,}"
        " multixacts"
    )
    advice = (
        f"in {identifier(ages.database)}: VACUUM (FREEZE, VERBOSE); what holds it up is in transactions,"
        " prepared and slots above"
    )
    if max(ages.transactions, ages.multixacts) > URGENT:
        return Result("fail", f"{ahead}: at 2.1 billion the server takes no more writes", advice)
    behind = (
        ages.transactions > ages.freezes_at + BEHIND or ages.multixacts > ages.freezes_multixacts_at + BEHIND
    )
    if behind:
        return Result("warn", f"{ahead}: autovacuum does not keep up", advice)
    if not ages.autovacuum:
        return Result(
            "warn",
            "autovacuum is off: tables grow, and plans get worse",
            "ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();",
        )
    return Result("ok", f"{ahead}; autovacuum freezes at {ages.freezes_at:,}")


async def slots(server: Server) -> Result:
    """Replication slots that nobody reads: the server keeps all WAL for them, until its disk is full."""
    rows = await server.connection.fetch(_SLOTS)
    bad = [
        row
        for row in rows
        if not row["active"] or row["status"] in {"lost", "unreserved"} or (row["kept"] or 0) > LARGE_SLOT
    ]
    if not bad:
        kept = f", which keep {size(max(row['kept'] or 0 for row in rows))} of WAL" if rows else ""
        return Result("ok", f"{len(rows)} replication slots{kept}")
    lines = tuple(
        f"{row['name']}: {'read' if row['active'] else 'nobody reads it'}, keeps {size(row['kept'] or 0)}"
        f" of WAL{', ' + row['status'] if row['status'] else ''}"
        for row in bad
    )
    text = f"{len(bad)} of {len(rows)} replication slots keep WAL that nobody reads"
    if bad[0]["bound"] == "-1":
        text += ", without a bound (max_slot_wal_keep_size = -1)"
    name = str(bad[0]["name"])
    advice = f"start what reads it, or SELECT pg_drop_replication_slot('{name}');"
    if bad[0]["bound"] == "-1":
        advice += " ALTER SYSTEM SET max_slot_wal_keep_size = '50GB';"
    return Result("warn", text, advice, lines)
