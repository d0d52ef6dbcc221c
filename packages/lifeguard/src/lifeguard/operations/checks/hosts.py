"""Check of a primary's URL with several hosts: each of them, whichever the service is on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg
from pydantic import SecretStr

from lifeguard.database.connect_options import dsn
from lifeguard.operations.checks.finding import Finding
from lifeguard.operations.checks.reaching import Unreachable, connect
from lifeguard.operations.checks.server import Facts, facts_of
from lifeguard.settings import Settings
from lifeguard.settings.dsn import each_host, host_of


@dataclass(frozen=True, slots=True)
class _Host:
    name: str
    facts: Facts | None
    reason: str = ""
    """Why there are none."""
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.facts or self.reason}"

    @property
    def takes_writes(self) -> bool:
        return self.facts is not None and self.facts.kind == "read-write"


async def hosts(settings: Settings) -> Finding | None:
    """Who each host of DATABASE_URL is; None where it has one, which is looked at anyway."""
    urls = each_host(dsn(settings))
    if len(urls) == 1:
        return None
    found = await asyncio.gather(*(_look(settings, url) for url in urls))
    writable = [host for host in found if host.takes_writes]
    silent = [host for host in found if host.facts is None]
    lines = tuple(map(str, found))
    text = f"{len(found)} in DATABASE_URL: {len(writable)} read-write"
    text += f", {len(found) - len(writable) - len(silent)} standby or read-only, {len(silent)} not reached"
    if not writable:
        advice = "promote a standby: SELECT pg_promote() on the one that is furthest"
        return Finding("primary", "hosts", "fail", text, silent[0].advice if silent else advice, lines)
    if len(writable) > 1:
        return Finding(
            "primary",
            "hosts",
            "fail",
            f"{text}: what one of them gets the others do not have",
            "find out which one is the primary (SELECT pg_walfile_name(pg_current_wal_lsn()); its first eight"
            " digits are the highest), stop the others at once, and make standbys of them (pg_rewind)",
            lines,
        )
    if silent:
        return Finding("primary", "hosts", "warn", text, silent[0].advice, lines)
    return Finding("primary", "hosts", "ok", text, lines=lines)


async def _look(settings: Settings, url: str) -> _Host:
    name = host_of(url)
    alone = settings.model_copy(update={"database_url": SecretStr(url)})
    try:
        connection, _ = await connect(alone, "primary", target_session_attrs="any")
    except Unreachable as error:
        return _Host(name, None, error.reason.partition(": ")[2], error.advice)
    try:
        async with asyncio.timeout(settings.pool_connect_timeout):
            return _Host(name, await facts_of(connection))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return _Host(name, None, f"{type(error).__name__}: {error}", "look into its log")
    finally:
        connection.terminate()
