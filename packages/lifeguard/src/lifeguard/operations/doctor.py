"""What `python -m app doctor` looks at: the settings and the databases, as the service would use them."""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Literal

import asyncpg

from lifeguard.database import MigrationError, PoolOversized
from lifeguard.database.connect_options import Role, check, connect_options, dsn, each_replica, with_remedy
from lifeguard.database.schema import FOREIGN, schema_state
from lifeguard.database.sizing import read_capacity, size_pool
from lifeguard.pool import Connector, Fault, Pooler, fault_of
from lifeguard.settings import Settings
from lifeguard.settings.dsn import without_secrets

ROUND_TRIPS = 5
LARGEST_CLOCK_DIFFERENCE = 1.0  # seconds; beyond it, log lines of two machines no longer line up

_SERVER = """
SELECT current_setting('server_version') AS version,
       current_setting('transaction_read_only')::bool AS read_only,
       pg_is_in_recovery() AS standby,
       COALESCE(host(inet_server_addr()), 'unix socket') AS address,
       (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS tls
"""

Verdict = Literal["ok", "warn", "FAIL"]


class Unreachable(Exception):
    """No connection to a database; the message is one line without a secret."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    topic: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.topic:<18} {self.verdict:<5} {self.text}"


async def examine(settings: Settings) -> AsyncGenerator[Finding, None]:
    """Look at everything, one finding after the other; what cannot be reached is a finding too.

    Raises SettingsError when there is no database to look at, or none that could ever be reached.
    """
    check(settings)
    for warning in settings.warnings:
        yield Finding("settings", "warn", warning)
    if not settings.warnings:
        yield Finding("settings", "ok", f"APP_ENV={settings.app_env}")
    yield _operators(settings)
    async for finding in _examine_database(settings, "primary", "primary"):
        yield finding
    replicas = each_replica(settings)
    for number, one in enumerate(replicas, 1):
        topic = "replica" if len(replicas) == 1 else f"replica-{number}"
        async for finding in _examine_database(one, "replica", topic):
            yield finding


def _operators(settings: Settings) -> Finding:
    if settings.ops_port is None:
        where = "on the port of requests (OPS_PORT is not set): whatever is in front must keep clients out"
    else:
        where = f"on port {settings.ops_port} of {settings.host} (OPS_PORT) and nowhere else"
    return Finding("probes, metrics", "ok", f"{where}: /healthz, /readyz, /metrics, /pool")


async def sizing_report(settings: Settings) -> str:
    """What the server has and what all instances may ask for. Raises Unreachable, PoolOversized,
    SettingsError."""
    check(settings)
    connection, pooler = await _connect(settings, "primary")
    try:
        capacity = await read_capacity(connection)
    finally:
        await connection.close(timeout=settings.pool_connect_timeout)
    sizing = size_pool(settings, capacity, pooler)
    most = int(capacity.available * settings.pool_headroom / sizing.instances)
    return (
        f"the server has     {capacity}\n"
        f"the pools may ask  {sizing.demand} (POOL_INSTANCES={sizing.instances}"
        f" x POOL_MAX_SIZE={sizing.max_size}), {sizing.share:.0%}\n"
        f"{'' if pooler is None else f'behind a pooler    {sizing.for_pooler}{chr(10)}'}"
        f"comfortable        POOL_MAX_SIZE up to {most} with POOL_HEADROOM={settings.pool_headroom:g}"
    )


async def _examine_database(settings: Settings, role: Role, topic: str) -> AsyncIterator[Finding]:
    start = time.perf_counter()
    try:
        connection, pooler, wanted = await _connect_anyway(settings, role)
    except Unreachable as error:
        yield _unusable(role, topic, str(error))
        return
    connect_time = time.perf_counter() - start
    try:
        yield await _server(connection, role, topic, wanted)
        if pooler is not None:
            yield _pooler(pooler, topic)
        yield await _latency(connection, topic, connect_time)
        yield await _clock(connection, topic)
        if role == "primary":
            yield await _schema(connection, settings)
            yield await _sizing(connection, settings, pooler)
    finally:
        await connection.close(timeout=settings.pool_connect_timeout)


async def _connect(
    settings: Settings, role: Role, **options: str
) -> tuple[asyncpg.Connection, Pooler | None]:
    """A connection, and what is in between."""
    url = dsn(settings, role)
    options = {**connect_options(settings, role), **options}
    patience, keepalive = settings.pool_connect_timeout, settings.pool_keepalive
    try:
        connector = Connector(
            url, patience, None, options, keepalive=keepalive, pgbouncer=settings.pool_pgbouncer
        )
        return await connector.connect(), connector.pooler
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        fault = fault_of(error)
        said = with_remedy(str(error))
        what = f"{fault.name.replace('_', ' ')}: {type(error).__name__}: {said}; {fault.advice}"
        raise Unreachable(f"{without_secrets(url)}: {what}", fault) from error


async def _connect_anyway(settings: Settings, role: Role) -> tuple[asyncpg.Connection, Pooler | None, bool]:
    """A connection to look around by, what is in between, and whether it is of the kind that the service
    would take."""
    try:
        return *await _connect(settings, role), True
    except Unreachable as unreachable:
        if not unreachable.fault.wrong_role:
            raise
        return *await _connect(settings, role, target_session_attrs="any"), False


async def _server(connection: asyncpg.Connection, role: Role, topic: str, wanted: bool) -> Finding:
    row = await connection.fetchrow(_SERVER)
    if row is None:
        raise AssertionError("a SELECT without FROM gives a row")
    kind = "standby" if row["standby"] else "read-only" if row["read_only"] else "read-write"
    text = f"PostgreSQL {row['version']}, {kind}, {row['address']}, {row['tls'] or 'no TLS'}"
    if wanted and (role == "replica" or kind == "read-write"):
        return Finding(topic, "ok", text)
    return _unusable(role, topic, f"{text}: no {'writable' if role == 'primary' else 'matching'} server")


def _unusable(role: Role, topic: str, text: str) -> Finding:
    """The service can do without a replica: others have its reads, or the primary."""
    if role == "primary":
        return Finding(topic, "FAIL", text)
    return Finding(topic, "warn", f"{text}; its reads go to other replicas, or the primary")


def _pooler(pooler: Pooler, topic: str) -> Finding:
    """It costs round trips where it keeps no statements, or its sessions have not the service's timeouts."""
    if not pooler.lacks:
        return Finding(f"{topic} pooler", "ok" if pooler.keeps_statements else "warn", str(pooler))
    remedy = "single statements get them in transactions of their own; ALTER ROLE ... SET spares that"
    return Finding(f"{topic} pooler", "warn", f"{pooler}: {remedy}")


async def _latency(connection: asyncpg.Connection, topic: str, connect_time: float) -> Finding:
    round_trips = []
    for _ in range(ROUND_TRIPS):
        start = time.perf_counter()
        await connection.execute("SELECT 1")
        round_trips.append(time.perf_counter() - start)
    text = (
        f"connecting {connect_time * 1000:.1f} ms,"
        f" a round trip {statistics.median(round_trips) * 1000:.2f} ms (median of {ROUND_TRIPS})"
    )
    return Finding(f"{topic} latency", "ok", text)


async def _clock(connection: asyncpg.Connection, topic: str) -> Finding:
    """The difference is known to half a round trip."""
    before = time.time()
    there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    ahead = there - (before + time.time()) / 2
    verdict: Verdict = "ok" if abs(ahead) < LARGEST_CLOCK_DIFFERENCE else "warn"
    direction = "ahead of" if ahead > 0 else "behind"
    return Finding(f"{topic} clock", verdict, f"{abs(ahead) * 1000:.0f} ms {direction} this machine's")


async def _schema(connection: asyncpg.Connection, settings: Settings) -> Finding:
    try:
        state = await schema_state(connection, settings.migrations)
    except MigrationError as error:
        return Finding("schema", "FAIL", str(error))
    if state.is_old:
        return Finding("schema", "FAIL", f"{state}: run `python -m app migrate`")
    if not state.known and not settings.in_production:
        return Finding("schema", "FAIL", f"{state}; {FOREIGN}")
    if not state.known:
        return Finding("schema", "ok", f"{state}; a newer version has migrated already")
    return Finding("schema", "ok", str(state))


async def _sizing(connection: asyncpg.Connection, settings: Settings, pooler: Pooler | None) -> Finding:
    capacity = await read_capacity(connection)
    try:
        sizing = size_pool(settings, capacity, pooler)
    except PoolOversized as error:
        return Finding("sizing", "FAIL", str(error))
    if sizing.warning:
        return Finding("sizing", "warn", sizing.warning)
    product = f"{sizing.instances} x {sizing.max_size} = {sizing.demand}"
    if pooler is not None:
        return Finding("sizing", "ok", f"{product} through the pooler; {sizing.for_pooler}")
    return Finding("sizing", "ok", f"{product} of {capacity}")
