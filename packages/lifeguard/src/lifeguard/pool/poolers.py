"""What is between the pool and the server: found out by asking on a session, once it is there.

PgBouncer, pgcat, Odyssey, Supavisor and RDS Proxy give every client the process id and the key of a cancel
request that they have made up, since the server's session changes with each transaction. So it is one of
them where `pg_backend_pid()` says another id than the connect did. HAProxy and others that pass bytes on
change nothing, and do not matter here.

Whether statements may have names is seen at the server, in `pg_prepared_statements`: a pooler that keeps
track of them gives them names of its own (PgBouncer from 1.21 on `PGBOUNCER_1`, Odyssey `odyssey_pstmt_0`,
pgcat `PGCAT_1`), by which it is known, too. Where the client's own name is found there, nobody keeps track:
the next transaction may be in a session without this statement, or with another client's of that name.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import asyncpg

from lifeguard.pool.config import PgBouncerMode
from lifeguard.pool.driver import is_through_pooler, through_pooler
from lifeguard.pool.faults import StatementPooling, UnsupportedOptions, refuses_startup_parameter

_PRODUCTS = {"pgbouncer_": "PgBouncer", "pgcat_": "pgcat", "odyssey_": "Odyssey", "supavisor": "Supavisor"}
_NAME: Final = "application_name"
# PgBouncer ends a session that begins a transaction where each statement has its own.
_NO_TRANSACTIONS = "statement pooling"
_SAFE_NAME = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True, slots=True)
class Pooler:
    """A pooler that gives each transaction a session of the server's."""

    product: str
    """`PgBouncer`, for one; `a pooler` where nothing tells."""
    keeps_statements: bool
    """Whether prepared statements may have names."""
    lacks: frozenset[str] = frozenset()
    """Settings that the server's session does not have as they were asked for."""

    def __str__(self) -> str:
        statements = (
            "keeps prepared statements"
            if self.keeps_statements
            else "keeps no prepared statements, so each is parsed every time"
        )
        text = f"{self.product} in between {statements}"
        if self.product == "PgBouncer" and not self.keeps_statements:
            text += " (from 1.21 on it does, with max_prepared_statements above 0)"
        if self.lacks:
            text += f"; its sessions have other values of {', '.join(sorted(self.lacks))}"
        return text


async def has_pooler(connection: asyncpg.Connection, timeout: float) -> bool:
    """Whether there is one: one round trip. What resembles PostgreSQL and knows no such function has none."""
    question = f"SELECT 1 WHERE pg_catalog.pg_backend_pid() = {connection.get_server_pid()}"
    try:
        return bool(await connection.execute(question, timeout=timeout) != "SELECT 1")
    except (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError):
        return False


async def examine(
    connection: asyncpg.Connection, wanted: Mapping[str, str], timeout: float, product: str = "a pooler"
) -> tuple[Pooler, bool]:
    """What the pooler does, and whether there is one after all: four or five round trips, in a transaction
    that is rolled back.

    Raises StatementPooling where it allows no transactions, and what the server says of `wanted`.
    """
    name = f"lifeguard_{secrets.token_hex(8)}"
    try:
        await connection.execute("BEGIN", timeout=timeout)
    except asyncpg.PostgresConnectionError as error:
        if _NO_TRANSACTIONS in str(error):
            raise StatementPooling(
                "the pooler gives every single statement a session of its own and allows no transactions"
            ) from error
        raise
    # Any: asyncpg's stubs of prepare() know no name.
    prepare: Any = connection.prepare
    statement = await prepare(_question(name, wanted), name=name, timeout=timeout)
    row = await statement.fetchrow(timeout=timeout)
    names = (row["names"] or "").split()
    kept_by_server = name in names
    await connection.execute(
        f'DEALLOCATE "{name}"; ROLLBACK' if kept_by_server else "ROLLBACK", timeout=timeout
    )
    for theirs in names:
        for start, maker in _PRODUCTS.items():
            if theirs.lower().startswith(start):
                product = maker
    lacks = frozenset((row["lacks"] or "").split())
    pooler = Pooler(product, keeps_statements=bool(names) and not kept_by_server, lacks=lacks)
    return pooler, row["pid"] != connection.get_server_pid()


def _question(name: str, wanted: Mapping[str, str]) -> str:
    """The SQL; its own text is found in `pg_prepared_statements` by `name`. The server itself compares
    settings, which it writes in its own way: 10s for 10000."""
    pairs = ", ".join(
        f"({_literal(key)}, {_literal(value)})" for key, value in wanted.items() if key != _NAME
    )
    lacks = (
        f"""(SELECT pg_catalog.string_agg(name, ' ') FROM (
            SELECT name, pg_catalog.current_setting(name, true) AS has,
                   pg_catalog.set_config(name, value, true) AS wants
            FROM (VALUES {pairs}) AS wanted(name, value) OFFSET 0) AS compared
          WHERE has IS DISTINCT FROM wants)"""  # noqa: S608 - literals are escaped
        if pairs
        else "NULL::pg_catalog.text"
    )
    return f"""SELECT pg_catalog.pg_backend_pid() AS pid,
       (SELECT pg_catalog.string_agg(name, ' ') FROM pg_catalog.pg_prepared_statements
        WHERE pg_catalog.strpos(statement, '{name}') > 0) AS names,
       {lacks} AS lacks"""  # noqa: S608 - its own words


def _literal(text: str) -> str:
    return " E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


class Approach:
    """How sessions at one host are opened, as far as that is known yet."""

    def __init__(self, mode: PgBouncerMode) -> None:
        self._mode = mode
        self._is_known = mode == "off"
        self._sends: Literal["all", "name", "nothing"] = "nothing" if mode == "on" else "all"
        self._product = "a pooler"
        self.pooler: Pooler | None = Pooler("a pooler", keeps_statements=False) if mode == "on" else None

    async def open(
        self, dsn: str | None, options: Mapping[str, Any], where: Callable[[], dict[str, Any]]
    ) -> asyncpg.Connection:
        """A session; another one if the first shows that a pooler is in between. `where` gives the arguments
        of one host, with the time that is left; all of it takes no longer. Raises what `asyncpg.connect()`
        raises, and as `examine()`."""
        wanted = options.get("server_settings") or {}
        left = float(where()["timeout"])
        async with asyncio.timeout(left):
            while True:
                try:
                    arguments = {**self.arguments(options), **where()}
                    connection: asyncpg.Connection = await asyncpg.connect(dsn, **arguments)
                except asyncpg.ProtocolViolationError as error:
                    if self.may_send_less(error):
                        continue
                    raise
                try:
                    if await self.suits(connection, wanted, left):
                        return connection
                except BaseException:
                    connection.terminate()
                    raise
                connection.terminate()

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `asyncpg.connect()` for the next session."""
        arguments = dict(options)
        settings = options.get("server_settings") or {}
        if self._sends != "all" and settings:
            sent = {key: value for key, value in settings.items() if self._sends == "name" and key == _NAME}
            arguments["server_settings"] = sent or None
        if self.pooler is not None:
            arguments["connection_class"] = through_pooler(options.get("connection_class"))
            if not self.pooler.keeps_statements:
                arguments["statement_cache_size"] = 0
        return arguments

    def may_send_less(self, error: Exception) -> bool:
        """Whether a connect was refused for a setting that can be left out; it is left out from now on.

        PgBouncer names the first of them only. It takes a name, which others refuse as well.
        """
        if self._mode == "off" or self._sends == "nothing" or not refuses_startup_parameter(error):
            return False
        self._product = "PgBouncer"
        self._sends = "nothing" if self._sends == "name" or _NAME in str(error) else "name"
        if self.pooler is None:
            self.pooler = Pooler(self._product, keeps_statements=False)
        return True

    async def suits(self, connection: asyncpg.Connection, wanted: Mapping[str, str], timeout: float) -> bool:
        """Whether the session is as it has to be; if not, another one has to be opened, which will be.

        A server that has answered directly once is not asked again; a pooler is, at each connect: it may have
        been replaced. Raises as `examine()`.
        """
        if self._is_known and self.pooler is None:
            return True
        if self.pooler is None and not await has_pooler(connection, timeout):
            self._is_known = True
            return True
        if "options" in wanted:
            raise UnsupportedOptions(
                "unsupported startup parameter: a pooler is in between and drops options; write ?name=value"
            )
        opened_for = self.pooler if is_through_pooler(connection) else None
        found, in_between = await examine(connection, wanted, timeout, self._product)
        if not in_between and self._mode == "auto" and self._sends == "all":
            self._is_known, self.pooler = True, None
            return opened_for is None
        self._is_known, self.pooler = True, found
        return opened_for is not None and opened_for.keeps_statements == found.keeps_statements
