"""Checks of the schema: its revision, and its indexes."""

from __future__ import annotations

import asyncpg

from lifeguard.database import MigrationError
from lifeguard.database.catalog import INVALID_INDEXES
from lifeguard.database.schema import FOREIGN, schema_state
from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.server import Server, identifier, size

LARGE_TABLE = 10_000
"""Rows. Smaller ones are read as a whole in a millisecond or two."""
SMALL_TABLE = 1000
"""Rows. Below, an index would not be used."""
OFTEN = 50
"""Scans since the statistics began."""
LARGE_INDEX = 16 * 2**20
"""Bytes."""
_SHOWN = 8

# Whether an index begins with the key's columns, in any order; one of some rows only (indpred) does not help.
# It is needed where rows of the referenced table go: each DELETE looks for rows that refer to it.
_FOREIGN_KEYS = """
SELECT format('%I.%I', n.nspname, child.relname) AS child, key.confrelid::regclass::text AS parent,
       key.conname::text AS name,
       (SELECT string_agg(quote_ident(attname), ', ' ORDER BY at.position)
        FROM unnest(key.conkey) WITH ORDINALITY AS at(number, position)
        JOIN pg_attribute ON attrelid = key.conrelid AND attnum = at.number) AS columns,
       GREATEST(seen.n_live_tup, child.reltuples::bigint, 0) AS rows,
       COALESCE(parents.n_tup_del, 0) AS deleted,
       key.confdeltype IN ('c', 'n', 'd') AS follows
FROM pg_constraint AS key
JOIN pg_class AS child ON child.oid = key.conrelid
JOIN pg_namespace AS n ON n.oid = child.relnamespace
LEFT JOIN pg_stat_user_tables AS seen ON seen.relid = key.conrelid
LEFT JOIN pg_stat_user_tables AS parents ON parents.relid = key.confrelid
WHERE key.contype = 'f' AND key.conparentid = 0
  AND NOT EXISTS (
      SELECT FROM pg_index
      WHERE indrelid = key.conrelid AND indisvalid AND indpred IS NULL
        AND indnkeyatts >= cardinality(key.conkey)
        AND (string_to_array(indkey::text, ' ')::int2[])[1:cardinality(key.conkey)] @> key.conkey)
ORDER BY rows DESC, child, name
"""
_SCANS = """
SELECT format('%I.%I', schemaname, relname) AS name, n_live_tup AS rows, seq_scan AS scans,
       seq_tup_read / GREATEST(seq_scan, 1) AS rows_a_scan, COALESCE(idx_scan, 0) AS by_index
FROM pg_stat_user_tables
WHERE n_live_tup >= $1::bigint AND seq_scan >= $2::bigint
  AND seq_tup_read / GREATEST(seq_scan, 1) >= $1::bigint
ORDER BY seq_tup_read DESC
"""
# Those of constraints stay; of two that are the same one goes. The statistics of one that was never used say
# nothing of standbys.
_SUPERFLUOUS = """
WITH own AS (
    SELECT i.indexrelid, i.indrelid, format('%I.%I', n.nspname, c.relname) AS name,
           c.relpages::bigint * current_setting('block_size')::int AS size, s.idx_scan AS scans,
           i.indisunique OR EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid) AS needed,
           ROW(i.indrelid, i.indkey::text, i.indclass::text, i.indcollation::text, i.indoption::text,
               pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid),
               c.relam)::text AS shape
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indexrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_stat_user_indexes AS s ON s.indexrelid = i.indexrelid
    WHERE i.indisvalid AND c.relkind = 'i'
)
SELECT one.name, one.size, min(other.name) AS like_other
FROM own AS one LEFT JOIN own AS other
     ON other.shape = one.shape AND other.indexrelid <> one.indexrelid
    AND (other.needed OR other.indexrelid < one.indexrelid)
WHERE NOT one.needed AND (other.name IS NOT NULL OR one.scans = 0 AND one.size >= $1::bigint)
GROUP BY one.name, one.size
ORDER BY one.size DESC, one.name
"""


async def revision(server: Server) -> Result:
    """Whether the schema is that of this version."""
    settings = server.settings
    try:
        state = await schema_state(server.connection, settings.migrations)
    except asyncpg.InsufficientPrivilegeError as error:
        role = identifier(server.facts.role)
        grant = f"as its owner: GRANT SELECT ON alembic_version TO {role};"
        return Result("fail", f"{error}: the service never gets ready", grant)
    except MigrationError as error:
        return Result(
            "fail", str(error), "have each revision follow one other: `alembic heads` lists the ends"
        )
    if state.is_old:
        return Result("fail", str(state), "`python -m app migrate`")
    if not state.known and not settings.in_production:
        return Result("fail", str(state), FOREIGN)
    if not state.known:
        return Result("ok", f"{state}; a newer version has migrated already")
    return Result("ok", str(state))


async def invalid_indexes(server: Server) -> Result:
    """What a CREATE INDEX CONCURRENTLY that was broken off has left: writes keep it up, no query uses it."""
    names = [row["name"] for row in await server.connection.fetch(INVALID_INDEXES)]
    if not names:
        return Result("ok", "none")
    return Result(
        "warn",
        f"{len(names)}: {', '.join(names)}: writes keep them up, and no query uses them",
        f"REINDEX INDEX CONCURRENTLY {names[0]}; or DROP INDEX CONCURRENTLY {names[0]};",
    )


async def foreign_keys(server: Server) -> Result:
    """Foreign keys without an index, where rows that they refer to are deleted."""
    rows = await server.connection.fetch(_FOREIGN_KEYS)
    needed = [row for row in rows if row["rows"] >= SMALL_TABLE and (row["deleted"] or row["follows"])]
    if not rows:
        return Result("ok", "each has an index")
    if not needed:
        names = ", ".join(f"{row['child']} ({row['columns']})" for row in rows[:_SHOWN])
        more = "" if len(rows) <= _SHOWN else f" and {len(rows) - _SHOWN} more"
        return Result("ok", f"without an index, and none needed while nobody deletes there: {names}{more}")
    lines = tuple(
        f"{row['child']} ({row['columns']}) refers to {row['parent']}: {row['rows']:,} rows are read for each"
        f" DELETE there ({row['deleted']:,} so far)"
        for row in needed[:_SHOWN]
    )
    first = needed[0]
    return Result(
        "warn",
        f"{len(needed)} need an index",
        f"in a revision: CREATE INDEX CONCURRENTLY ON {first['child']} ({first['columns']});",
        lines,
    )


async def scans(server: Server) -> Result:
    """Large tables that are read from end to end, often."""
    rows = await server.connection.fetch(_SCANS, LARGE_TABLE, OFTEN)
    if not rows:
        return Result("ok", f"no table above {LARGE_TABLE:,} rows is often read as a whole")
    lines = tuple(
        f"{row['name']}: {row['scans']:,} times {row['rows_a_scan']:,} rows; by an index"
        f" {row['by_index']:,} times"
        for row in rows[:_SHOWN]
    )
    return Result(
        "warn",
        f"{len(rows)} large tables are often read as a whole",
        "EXPLAIN (ANALYZE, BUFFERS) the statements below that name them (`statements`), and index what their"
        " WHERE compares",
        lines,
    )


async def superfluous_indexes(server: Server) -> Result:
    """Indexes that are there twice, and large ones that no query has used."""
    rows = await server.connection.fetch(_SUPERFLUOUS, LARGE_INDEX)
    if not rows:
        return Result("ok", f"none is there twice, none above {size(LARGE_INDEX)} is unused")
    lines = tuple(
        f"{row['name']}, {size(row['size'])}: "
        + (f"the same as {row['like_other']}" if row["like_other"] else "no query has used it on this server")
        for row in rows[:_SHOWN]
    )
    return Result(
        "warn",
        f"{len(rows)} cost writes and serve no query",
        "look whether standbys use it (pg_stat_user_indexes there), then"
        f" DROP INDEX CONCURRENTLY {rows[0]['name']};",
        lines,
    )
