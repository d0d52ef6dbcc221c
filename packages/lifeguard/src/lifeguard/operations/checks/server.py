"""What the checks of one server look at, and the questions that several of them ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from lifeguard.database.connect_options import Role
from lifeguard.operations.checks.finding import Result
from lifeguard.pool import Pooler
from lifeguard.settings import Settings

_FACTS = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int AS number,
       current_setting('transaction_read_only')::bool AS read_only,
       pg_is_in_recovery() AS standby,
       current_user::text AS role,
       current_database()::text AS database,
       inet_server_addr() IS NULL AS local,
       COALESCE(host(inet_server_addr()) || ':' || inet_server_port(), 'a unix socket') AS address,
       COALESCE((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false) AS superuser,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') AS sees_all
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server says of itself and of us."""

    version: str
    number: int
    """Such as 180001."""
    read_only: bool
    standby: bool
    role: str
    database: str
    local: bool
    """Whether the server was reached over a unix socket, by us or by what is in between."""
    address: str
    superuser: bool
    sees_all: bool
    """Whether the role sees what sessions and statements of other roles do."""

    @property
    def kind(self) -> str:
        return "standby" if self.standby else "read-only" if self.read_only else "read-write"

    @property
    def major(self) -> int:
        return self.number // 10_000

    def __str__(self) -> str:
        return f"PostgreSQL {self.version}, {self.kind}, {self.address}"


@dataclass(frozen=True, slots=True)
class Server:
    """One server, seen over a session as the service would have it."""

    settings: Settings
    role: Role
    connection: asyncpg.Connection
    pooler: Pooler | None
    facts: Facts
    wanted: bool
    """Whether it is of the kind that the service would take."""
    connect_time: float
    """Seconds."""

    @property
    def variable(self) -> str:
        """The one that names it."""
        return variable_of(self.role)

    @property
    def grant(self) -> str:
        """What lets the role see everything."""
        return f"as a superuser: GRANT pg_monitor TO {identifier(self.facts.role)};"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at on a server."""

    name: str
    look: Callable[[Server], Awaitable[Result]]
    roles: tuple[Role, ...] = ("primary", "replica")


def variable_of(role: Role) -> str:
    return "DATABASE_URL" if role == "primary" else "DATABASE_REPLICA_URL"


async def facts_of(connection: asyncpg.Connection) -> Facts:
    row = await connection.fetchrow(_FACTS)
    if row is None:
        raise AssertionError("a SELECT without FROM gives a row")
    return Facts(**row)


def identifier(name: str) -> str:
    """`name` as SQL wants it, quoted where it must be."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and name == name.lower()
    return name if plain and not name[0].isdigit() else '"{}"'.format(name.replace('"', '""'))


def span(seconds: float) -> str:
    """Seconds for people.

    >>> [span(0.0021), span(12.34), span(90), span(7300), span(200_000)]
    ['2.1 ms', '12.3 s', '90 s', '2.0 h', '2.3 days']
    """
    for least, unit, name in ((172_800, 86_400, "days"), (7200, 3600, "h"), (600, 60, "min")):
        if abs(seconds) >= least:
            return f"{seconds / unit:.1f} {name}"
    if abs(seconds) < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.4g} s" if seconds == int(seconds) else f"{seconds:.1f} s"


def size(number: float) -> str:
    """Bytes for people.

    >>> [size(512), size(3_500_000), size(4 * 2**30)]
    ['512 bytes', '3.3 MB', '4.0 GB']
    """
    for unit, name in ((2**30, "GB"), (2**20, "MB"), (2**10, "kB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number:.0f} bytes"
