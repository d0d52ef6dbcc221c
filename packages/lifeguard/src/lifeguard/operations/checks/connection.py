"""Checks of who was reached, and how: role, version, TLS, pooler, latency, clock, rights."""

from __future__ import annotations

import ipaddress
import ssl
import statistics
import time
from datetime import UTC, date, datetime, timedelta

from lifeguard.operations.checks.certificate import expiry
from lifeguard.operations.checks.finding import Result
from lifeguard.operations.checks.server import Server, identifier
from lifeguard.pool.driver import peer_of

READS_ELSEWHERE = "its reads go to other replicas, or the primary"

ROUND_TRIPS = 5
LARGEST_CLOCK_DIFFERENCE = 1.0  # seconds; beyond it, log lines of two machines no longer line up
RENEW_WITHIN = timedelta(days=30)
OLDEST_TLS = "TLSv1.2"  # RFC 8996 took back those before

SUPPORTED_UNTIL = {
    13: date(2025, 11, 13),
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
"""By major version, as PostgreSQL's project says: https://www.postgresql.org/support/versioning/."""


async def kind(server: Server) -> Result:
    """Whether it is a server that the service would take."""
    facts = server.facts
    if server.role == "replica":
        if server.wanted:
            return Result("ok", str(facts))
        return Result(
            "warn",
            f"{facts}: not what target_session_attrs asks for; {READS_ELSEWHERE}",
            "correct target_session_attrs in DATABASE_REPLICA_URL, or leave it out",
        )
    if server.wanted and facts.kind == "read-write":
        return Result("ok", str(facts))
    if facts.standby:
        advice = (
            "name the primary in DATABASE_URL, or all hosts with commas, postgresql://app@db1,db2/name;"
            " if the primary is lost: SELECT pg_promote() on this one"
        )
    else:
        advice = (
            f"ALTER DATABASE {identifier(facts.database)} RESET default_transaction_read_only; or, where it"
            f" was set, ALTER ROLE {identifier(facts.role)} or ALTER SYSTEM RESET it"
        )
    return Result("fail", f"{facts}: no writable server", advice)


async def version(server: Server) -> Result:
    """Whether its major version still gets fixes."""
    return judge_version(server.facts.major, datetime.now(tz=UTC).date())


def judge_version(major: int, today: date) -> Result:
    oldest, newest = min(SUPPORTED_UNTIL), max(SUPPORTED_UNTIL)
    if major > newest:
        return Result("ok", f"PostgreSQL {major} is newer than what this version knows of ({newest})")
    if major < oldest:
        text = (
            f"PostgreSQL {major} gets no fixes any more, and this service was tried with {oldest} and later"
        )
        return Result("warn", text, f"upgrade it to {newest} (pg_upgrade, or a new server and pg_dump)")
    until = SUPPORTED_UNTIL[major]
    if today > until:
        text = f"PostgreSQL {major} gets no fixes any more, since {until}"
        return Result("warn", text, f"upgrade it to {newest} (pg_upgrade, or a new server and pg_dump)")
    return Result("ok", f"PostgreSQL {major} gets fixes until {until}")


async def tls(server: Server) -> Result:
    """Whether the connection is encrypted, the server known, and for how long."""
    address, secured = peer_of(server.connection)
    if address is None:
        return Result("ok", "a unix socket: nothing leaves this machine")
    here = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    wanted = f"?sslmode=verify-full&sslrootcert=FILE (or system) in {server.variable}"
    if secured is None:
        if here:
            return Result("ok", "no TLS; nothing leaves this machine")
        text = "no TLS: password and data cross the network as they are"
        return Result("warn", text, f"at the server ALTER SYSTEM SET ssl = on, with a certificate; {wanted}")
    return judge_tls(secured, wanted, here=here, now=datetime.now(tz=UTC))


def judge_tls(secured: ssl.SSLObject | ssl.SSLSocket, wanted: str, *, here: bool, now: datetime) -> Result:
    """`wanted` is what to say in the URL, `here` whether the server is on this machine."""
    certificate = secured.getpeercert(binary_form=True)
    until = expiry(certificate) if certificate else None
    verified = secured.context.verify_mode is not ssl.CERT_NONE
    named = verified and secured.context.check_hostname
    known = "verified" if named else "verified but for its name" if verified else "not verified"
    text = f"{secured.version()}, certificate {known}"
    if until is not None:
        text += f", valid until {until:%Y-%m-%d}"
    if until is not None and now > until:
        return Result(
            "warn", f"{text}: it has expired", "renew it at the server, then SELECT pg_reload_conf()"
        )
    if until is not None and until - now < RENEW_WITHIN:
        text += f": {(until - now).days} days from now"
        return Result("warn", text, "renew it at the server, then SELECT pg_reload_conf()")
    if (secured.version() or "") < OLDEST_TLS:
        return Result("warn", text, "at the server ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.2'")
    if not named and not here:
        return Result("warn", f"{text}: whoever is on the way could be in between", wanted)
    return Result("ok", text)


async def pooler(server: Server) -> Result:
    """It costs round trips where it keeps no statements, or its sessions have not the service's timeouts."""
    found = server.pooler
    if found is None:
        mode = server.settings.pool_pgbouncer
        return Result("ok", "none in between" if mode != "off" else "not asked for: POOL_PGBOUNCER=off")
    advice = []
    if not found.keeps_statements:
        advice.append(
            "PgBouncer 1.21 or later, with max_prepared_statements = 200 in pgbouncer.ini, then RELOAD"
            if found.product == "PgBouncer"
            else "have it keep prepared statements"
        )
    if found.lacks:
        advice.append(
            "single statements get them in transactions of their own; what timeouts says (ALTER ROLE ... SET)"
            " spares that"
        )
    return Result("warn" if advice else "ok", str(found), "; ".join(advice))


async def latency(server: Server) -> Result:
    """How long a connect and a round trip take; what is much depends on what is asked of the service."""
    round_trips = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        await server.connection.execute("SELECT 1")
        round_trips.append(time.perf_counter() - start)
    median = statistics.median(round_trips)
    return Result(
        "ok",
        f"connecting {server.connect_time * 1000:.1f} ms,"
        f" a round trip {median * 1000:.2f} ms (median of {ROUND_TRIPS})",
    )


async def clock(server: Server) -> Result:
    """The difference is known to half a round trip."""
    before = time.time()
    there = await server.connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return judge_clock(before, there, time.time())


def judge_clock(before: float, there: float, after: float) -> Result:
    """`there` is the server's time, read between the other two, in seconds since 1970."""
    ahead = there - (before + after) / 2
    text = f"{abs(ahead) * 1000:.0f} ms {'ahead of' if ahead > 0 else 'behind'} this machine's"
    if abs(ahead) - (after - before) / 2 < LARGEST_CLOCK_DIFFERENCE:
        return Result("ok", text)
    advice = "`timedatectl` on both machines must say `System clock synchronized: yes`; if not, start chrony"
    return Result("warn", text, advice)


async def rights(server: Server) -> Result:
    """Whether the role may do too much, or sees too little for this report."""
    facts = server.facts
    if facts.superuser and server.settings.in_production:
        return Result(
            "warn",
            f"{facts.role} is a superuser: whoever gets into the service owns the server",
            "give the service a role of its own: CREATE ROLE app LOGIN PASSWORD '...'; GRANT what it needs",
        )
    if facts.superuser:
        return Result("ok", f"{facts.role} is a superuser, which production should not have")
    if not facts.sees_all:
        text = f"{facts.role} is no superuser, and does not see what sessions of other roles do"
        return Result("unknown", text, server.grant)
    return Result("ok", f"{facts.role} is no superuser, and sees what sessions of other roles do")
