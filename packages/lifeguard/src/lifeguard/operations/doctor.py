"""What `python -m app doctor` looks at: the settings and the databases, as the service would use them.

Each thing is looked at by a function in `lifeguard.operations.checks`; docs/doctor.md has a section for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import asyncpg

from lifeguard.database import PoolOversized
from lifeguard.database.connect_options import Role, check, each_replica
from lifeguard.database.sizing import AUTO_BEHIND_POOLER, Capacity, read_capacity, size_pool
from lifeguard.operations.checks.finding import Finding
from lifeguard.operations.checks.fleet import present
from lifeguard.operations.checks.reaching import Unreachable, connect
from lifeguard.pool import Pooler
from lifeguard.settings import Settings

__all__ = ["Finding", "Unreachable", "examine", "sizing_report"]


async def examine(settings: Settings) -> AsyncGenerator[Finding, None]:
    """Look at everything, one finding after the other; what cannot be reached is a finding too.

    Servers are looked at side by side, so that one that does not answer holds up nobody. Raises SettingsError
    when there is no database to look at, or none that could ever be reached.
    """
    check(settings)
    for warning in settings.warnings:
        yield Finding("service", "settings", "warn", warning, "correct the variable, or take it away")
    if not settings.warnings:
        yield Finding("service", "settings", "ok", f"APP_ENV={settings.app_env}")
    yield _operators(settings)
    replicas = each_replica(settings)
    names = ["replica"] if len(replicas) == 1 else [f"replica-{n}" for n in range(1, len(replicas) + 1)]
    looks: list[Coroutine[Any, Any, list[Finding]]] = [
        _hosts(settings),
        _server(settings, "primary", "primary"),
        *(_server(one, "replica", name) for one, name in zip(replicas, names, strict=True)),
    ]
    tasks = [asyncio.ensure_future(look) for look in looks]
    try:
        for task in tasks:
            for finding in await task:
                yield finding
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _hosts(settings: Settings) -> list[Finding]:
    from lifeguard.operations.checks.hosts import hosts  # noqa: PLC0415 - as below

    found = await hosts(settings)
    return [found] if found else []


async def _server(settings: Settings, role: Role, name: str) -> list[Finding]:
    # What `serve`, which has this file by way of the commands, starts without.
    from lifeguard.operations.checks.examination import examine_server  # noqa: PLC0415

    return [finding async for finding in examine_server(settings, role, name)]


def _operators(settings: Settings) -> Finding:
    pages = "/healthz, /readyz, /metrics, /pool"
    if settings.ops_port is None:
        text = f"{pages} are on PORT (OPS_PORT is not set): what is in front must keep clients out"
    else:
        text = f"{pages} are on port {settings.ops_port} of {settings.host} (OPS_PORT) and nowhere else"
    return Finding("service", "operators", "ok", text)


async def sizing_report(settings: Settings) -> str:
    """What the server has and what all instances may ask for. Raises Unreachable, PoolOversized,
    SettingsError."""
    check(settings)
    connection, pooler = await connect(settings, "primary")
    try:
        capacity = await read_capacity(connection)
        if settings.pool_instances == "auto":
            return await _fleet_report(connection, pooler, settings, capacity)
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


async def _fleet_report(
    connection: asyncpg.Connection, pooler: Pooler | None, settings: Settings, capacity: Capacity
) -> str:
    if pooler is not None:
        raise PoolOversized(AUTO_BEHIND_POOLER)
    found = await present(connection, settings)
    return (
        f"the server has     {capacity}\n"
        f"share it           {found.processes}\n"
        f"POOL_INSTANCES     auto: {found.shared_out}\n"
        f"comfortable        {found.newcomer}"
    )
