"""Checks of the server's limits against the service's own: timeouts, keepalive."""

from __future__ import annotations

from lifeguard.database.connect_options import milliseconds, session_limits
from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.server import Server, identifier, span
from lifeguard.pool.driver import peer_of
from lifeguard.settings import Settings

# pg_settings has no row for what a version does not know.
_TIMEOUTS = """
SELECT name, setting::bigint AS value FROM pg_settings
WHERE name = ANY($1::text[])
"""
_OTHERS = ("deadlock_timeout", "idle_session_timeout", "transaction_timeout")
_KEEPALIVE = ("tcp_keepalives_idle", "client_connection_check_interval")


async def timeouts(server: Server) -> Result:
    """Whether a session has the limits that the settings ask for, and none that are in their way."""
    settings = server.settings
    wanted = {name: milliseconds(limit) for name, limit in session_limits(settings).items()}
    rows = await server.connection.fetch(_TIMEOUTS, [*wanted, *_OTHERS])
    found = {row["name"]: row["value"] for row in rows}
    problems: list[tuple[str, str]] = []
    role = identifier(server.facts.role)
    for name, value in wanted.items():
        if name in found and found[name] != value:
            has = span(found[name] / 1000) if found[name] else "no limit"
            problems.append(
                (
                    f"{name} is {has}, and the settings ask for {span(value / 1000)}",
                    f"ALTER ROLE {role} SET {name} = '{value}ms';",
                )
            )
    problems += _in_the_way(settings, found, role)
    if problems:
        advice = " ".join(dict.fromkeys(advice for _, advice in problems))
        if server.pooler is not None:
            advice += " Then RECONNECT on the pooler's console: it takes new sessions."
        return Result("warn", "; ".join(text for text, _ in problems), advice)
    return Result(
        "ok",
        f"statement {span(settings.statement_timeout)} (this side gives up after"
        f" {span(settings.command_timeout)}), lock {span(settings.lock_timeout)}, idle in transaction"
        f" {span(settings.idle_in_transaction_timeout)}; nothing ends idle sessions",
    )


def _in_the_way(settings: Settings, found: dict[str, int], role: str) -> list[tuple[str, str]]:
    """What the server's own limits do to the service's sessions: text and advice, each."""
    problems = []
    idle, whole = found.get("idle_session_timeout", 0) / 1000, found.get("transaction_timeout", 0) / 1000
    longest, variable = longest_idle(settings)
    if 0 < idle <= longest:
        problems.append(
            (
                f"idle_session_timeout is {span(idle)}: the server ends sessions of the pool, which may idle"
                f" for {span(longest)} ({variable})",
                f"ALTER ROLE {role} SET idle_session_timeout = 0; or {variable} below {idle:g}.",
            )
        )
    if 0 < whole <= settings.statement_timeout:
        problems.append(
            (
                f"transaction_timeout is {span(whole)}: the server ends the session before"
                f" STATEMENT_TIMEOUT={settings.statement_timeout:g} ends the statement",
                f"ALTER ROLE {role} SET transaction_timeout = 0; or STATEMENT_TIMEOUT below {whole:g}.",
            )
        )
    deadlock = found.get("deadlock_timeout", 0) / 1000
    if settings.lock_timeout <= deadlock:
        problems.append(
            (
                f"deadlock_timeout is {span(deadlock)} and LOCK_TIMEOUT={settings.lock_timeout:g}, no longer:"
                " deadlocks are never told as such",
                f"LOCK_TIMEOUT above {deadlock:g}, or ALTER SYSTEM SET deadlock_timeout = '1s'.",
            )
        )
    return problems


def longest_idle(settings: Settings) -> tuple[float, str]:
    """For how many seconds a session of the pool may send nothing, and the variable that says so."""
    candidates = [
        (settings.pool_health_check_interval, "POOL_HEALTH_CHECK_INTERVAL"),
        (settings.pool_max_lifetime, "POOL_MAX_LIFETIME"),
    ]
    if settings.pool_min_size == 0:
        candidates.append((settings.pool_idle_timeout, "POOL_IDLE_TIMEOUT"))
    return min(
        ((limit, name) for limit, name in candidates if limit > 0),
        default=(float("inf"), "POOL_MAX_LIFETIME"),
    )


async def keepalive(server: Server) -> Result:
    """Whether both ends notice a peer that is gone; `prepare_session()` has asked the server for it."""
    wanted = server.settings.pool_keepalive
    address, _ = peer_of(server.connection)
    if address is None:
        return Result("ok", "a unix socket: the kernel tells of its end")
    if server.pooler is not None:
        text = f"after {span(wanted)} from here to the pooler; between it and the server by its own settings"
        return Result("ok", text)
    rows = await server.connection.fetch(_TIMEOUTS, [*_KEEPALIVE])
    found = {row["name"]: row["value"] for row in rows}
    theirs = found.get("tcp_keepalives_idle")
    if theirs != wanted:
        has = "nothing" if theirs is None else span(theirs)
        return Result(
            "warn",
            f"POOL_KEEPALIVE={wanted}, but the server probes after {has}: a firewall that forgets idle"
            " connections sooner leaves its sessions, and their locks, behind",
            f"at the server ALTER SYSTEM SET tcp_keepalives_idle = {wanted}; SELECT pg_reload_conf();",
        )
    text = f"a silent connection is probed after {span(wanted)}, from here and from the server"
    if not found.get("client_connection_check_interval"):
        text += "; a statement of a client that is gone goes on (the server cannot look, or is older than 14)"
    return Result("ok", text)
