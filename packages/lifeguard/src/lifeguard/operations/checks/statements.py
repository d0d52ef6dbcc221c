"""Check of what costs the server most: pg_stat_statements, with where the code has each of them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import asyncpg

from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.places import places_in, source_of
from lifeguard.operations.checks.server import Server, identifier, size, span

TOP = 10
_OWN = "/".join(Path(__file__).parent.parts[-2:])  # the doctor's statements are nobody's concern
_LONGEST = 120  # characters
# Constants of these are left out by the server. Others may have a password in them, as ALTER ROLE has.
_WITHOUT_CONSTANTS = re.compile(
    r"\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE)\b", re.IGNORECASE
)
_HIDDEN = "<insufficient privilege>"
_TOPLEVEL_SINCE = 14  # PostgreSQL

_EXTENSION = """
SELECT (SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
        WHERE extname = 'pg_stat_statements') AS schema,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') AS available,
       EXISTS (SELECT FROM pg_settings WHERE name = 'pg_stat_statements.max') AS loaded
"""
_TOP = """
SELECT query, calls, total_exec_time AS total, mean_exec_time AS mean, max_exec_time AS longest, rows,
       total_exec_time / NULLIF(sum(total_exec_time) OVER (), 0) AS share,
       shared_blks_read::bigint * current_setting('block_size')::int AS read
FROM {schema}.pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND toplevel
ORDER BY total_exec_time DESC LIMIT 50
"""
_PRELOAD = (
    "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements' (with what it has already), restart the"
    " server"
)


async def statements(server: Server) -> Result:
    """The ten statements that have cost the server most time, and where the code has them."""
    row = await server.connection.fetchrow(_EXTENSION)
    assert row is not None
    load = _how_to_get_it(row, server)
    if row["schema"] is None:
        return Result("unknown", "could not look: the extension pg_stat_statements is missing here", load)
    try:
        rows = await server.connection.fetch(_query(row["schema"], server.facts.major))
    except asyncpg.ObjectNotInPrerequisiteStateError:
        return Result("unknown", "could not look: the server has not loaded pg_stat_statements", load)
    except asyncpg.UndefinedColumnError:
        return Result(
            "unknown",
            "could not look: the extension is older than the server",
            "as its owner: ALTER EXTENSION pg_stat_statements UPDATE;",
        )
    if not rows:
        return Result("ok", "nothing was counted in this database yet")
    places = await asyncio.to_thread(places_in, *source_of(type(server.settings)))
    placed = [(one, place) for one in rows if _OWN not in (place := places.of(one["query"]) or "")][:TOP]
    lines = tuple(_line(number, one, place) for number, (one, place) in enumerate(placed, 1))
    text = f"the {len(placed)} that have taken most of the server's time in this database"
    if any(one["query"] == _HIDDEN for one, _ in placed):
        text += "; those of other roles are hidden: permission denied"
        return Result("unknown", text, server.grant, lines)
    return Result("ok", text, lines=lines)


def _how_to_get_it(row: asyncpg.Record, server: Server) -> str:
    steps = []
    if not row["available"]:
        steps.append("install PostgreSQL's contrib package (Debian: postgresql-contrib)")
    if not row["loaded"]:
        steps.append(_PRELOAD)
    if row["schema"] is None:
        where = "on the primary " if server.facts.standby else ""
        steps.append(f"{where}in {identifier(server.facts.database)}: CREATE EXTENSION pg_stat_statements;")
    return f"as a superuser: {', then '.join(steps)}"


def _query(schema: str, major: int) -> str:
    query = _TOP.format(schema=schema)
    return query if major >= _TOPLEVEL_SINCE else query.replace(" AND toplevel", "")


def _kind(query: str) -> str:
    """The first words: what is behind them may be a password, as in `CALL` or `ALTER ROLE`."""
    first, *more = [*query.split(), ""][:2]
    return " ".join([first, *(word for word in more if word.isalpha())])


def _line(number: int, row: asyncpg.Record, place: str) -> str:
    share = f"{row['share'] or 0:.0%}"
    numbers = (
        f"{number:>2}. {share:>4} {span(row['total'] / 1000)}, {row['calls']:,} x {span(row['mean'] / 1000)},"
        f" longest {span(row['longest'] / 1000)}, {row['rows'] / max(row['calls'], 1):.3g} rows each,"
        f" {size(row['read'])} from disk"
    )
    query = str(row["query"])
    if not _WITHOUT_CONSTANTS.match(query):
        return f"{numbers}: {query if query == _HIDDEN else _kind(query)}"
    plain = " ".join(query.split())
    shown = plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}..."
    return (
        f"{numbers}{f', {place}' if place else ''}: {''.join(c if c.isprintable() else '?' for c in shown)}"
    )
