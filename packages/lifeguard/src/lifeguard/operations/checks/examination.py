"""The checks of one server, one after the other: bounded in time, and none hides another."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import asyncpg

from lifeguard.database.connect_options import Role
from lifeguard.operations.checks import connection, limits, replication, schema, sessions, statements, upkeep
from lifeguard.operations.checks.finding import Finding, Result
from lifeguard.operations.checks.reaching import Unreachable, connect_anyway
from lifeguard.operations.checks.server import Check, Server, facts_of, identifier
from lifeguard.pool import fault_of
from lifeguard.pool.faults import describe_error
from lifeguard.settings import Settings

PATIENCE = 5.0
"""Seconds that one check may take."""
PRIMARY: tuple[Role, ...] = ("primary",)
REPLICA: tuple[Role, ...] = ("replica",)

CHECKS = (
    Check("server", connection.kind),
    Check("version", connection.version),
    Check("tls", connection.tls),
    Check("pooler", connection.pooler),
    Check("latency", connection.latency),
    Check("clock", connection.clock),
    Check("rights", connection.rights),
    Check("timeouts", limits.timeouts),
    Check("keepalive", limits.keepalive),
    Check("sessions", sessions.sessions),
    Check("sizing", sessions.sizing),
    Check("transactions", sessions.transactions),
    Check("prepared", sessions.prepared, PRIMARY),
    Check("lag", replication.lag, REPLICA),
    Check("synchronous", replication.synchronous, PRIMARY),
    Check("slots", upkeep.slots, PRIMARY),
    Check("wraparound", upkeep.wraparound, PRIMARY),
    Check("schema", schema.revision, PRIMARY),
    Check("invalid_indexes", schema.invalid_indexes, PRIMARY),
    Check("foreign_keys", schema.foreign_keys, PRIMARY),
    Check("scans", schema.scans, PRIMARY),
    Check("superfluous_indexes", schema.superfluous_indexes, PRIMARY),
    Check("statements", statements.statements),
)
"""In the order of the report: what explains others comes first."""

_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def examine_server(settings: Settings, role: Role, name: str) -> AsyncIterator[Finding]:
    """Every check of the server that `settings` name for the role; none without it, but a finding."""
    visit = _Visit(settings, role)
    try:
        try:
            await visit.begin()
        except Unreachable as error:
            yield _unreachable(role, name, error)
            return
        for check in CHECKS:
            if role not in check.roles:
                continue
            result = await visit.look(check)
            yield Finding(name, check.name, result.level, result.finding, result.advice, result.lines)
            if visit.lost is not None:
                yield Finding(
                    name,
                    "session",
                    "unknown",
                    f"the checks after {check.name} were not made: {visit.lost}",
                    "run it again; if that stays, look into the server's log",
                )
                return
    finally:
        visit.end()


def _unreachable(role: Role, name: str, error: Unreachable) -> Finding:
    """The service can do without a replica: others have its reads, or the primary."""
    if role == "primary":
        return Finding(name, "server", "fail", error.reason, error.advice)
    text = f"{error.reason}; {connection.READS_ELSEWHERE}"
    return Finding(name, "server", "warn", text, error.advice)


class _Visit:
    """A session for the checks, and another one where a check has cost the first."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self._settings = settings
        self._role = role
        self._server: Server | None = None
        self.lost: str | None = None
        """Why there is no session any more, and no other one either."""

    async def begin(self) -> None:
        """Raises Unreachable."""
        began = time.perf_counter()
        connection, pooler, wanted = await connect_anyway(self._settings, self._role)
        connect_time = time.perf_counter() - began
        try:
            async with asyncio.timeout(PATIENCE):
                facts = await facts_of(connection)
        except _ERRORS as error:
            connection.terminate()
            fault = fault_of(error)
            raise Unreachable(describe_error(error), fault, fault.advice) from error
        except BaseException:
            connection.terminate()
            raise
        self._server = Server(self._settings, self._role, connection, pooler, facts, wanted, connect_time)

    async def look(self, check: Check) -> Result:
        """What the check says, or why it could not look."""
        assert self._server is not None
        try:
            async with asyncio.timeout(PATIENCE):
                result = await check.look(self._server)
        except Exception as error:  # noqa: BLE001 - no check hides another
            result = could_not_look(error, self._server)
        if self._server.connection.is_closed() or result.finding.startswith(_NO_ANSWER):
            await self._begin_anew()
        return result

    async def _begin_anew(self) -> None:
        self.end()
        try:
            await self.begin()
        except Unreachable as error:
            self.lost = error.reason

    def end(self) -> None:
        if self._server is not None:
            self._server.connection.terminate()


_NO_ANSWER = "could not look: no answer within"
_ON_RELATION = re.compile(r"permission denied for (?:table|view|relation) (?P<name>\w+)")


def could_not_look(error: Exception, server: Server) -> Result:
    """What is known instead of what a check has been kept from finding."""
    said = str(error).partition("\n")[0]
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        relation = _ON_RELATION.search(said)
        if relation is None or relation["name"].startswith("pg_"):
            return Result("unknown", f"could not look: {said}", server.grant)
        role = identifier(server.facts.role)
        grant = f"as its owner: GRANT SELECT ON {identifier(relation['name'])} TO {role};"
        return Result("unknown", f"could not look: {said}", grant)
    if isinstance(error, (TimeoutError, asyncpg.QueryCanceledError)):
        text = f"{_NO_ANSWER} {PATIENCE:g} s"
        return Result("unknown", text, "run it again when the server has less to do")
    if isinstance(error, asyncpg.LockNotAvailableError):
        text = f"could not look: {said}"
        return Result(
            "unknown", text, "run it again when the migration or VACUUM FULL that holds the lock is over"
        )
    if isinstance(error, (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)):
        text = f"could not look: {type(error).__name__}: {said}"
        return Result(
            "unknown", text, "nothing to do: this server, or the pooler before it, does not have it"
        )
    return Result(
        "unknown",
        f"could not look: {type(error).__name__}: {said}",
        "run it again; the server's log has more",
    )
