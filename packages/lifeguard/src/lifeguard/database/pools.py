"""The pools of a `Database`, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lifeguard.database.connect_options import Role, connect_options, dsn, each_replica, pool_config
from lifeguard.database.guard import PoolMaker
from lifeguard.database.passwords import PasswordSource
from lifeguard.pool import Pool, PoolEvent
from lifeguard.settings import Settings


def primary_maker(settings: Settings, name: str | None, passwords: PasswordSource) -> PoolMaker:
    """What makes the pool on the primary, `primary` or by the database's own name."""
    return partial(_make, settings, "primary", name or "primary", passwords)


def replica_makers(settings: Settings, name: str | None, passwords: PasswordSource) -> list[PoolMaker]:
    """What makes the pool on each replica: `replica`, or `replica-1`, `replica-2` and so on, with the
    database's own name in front if it has one."""
    each = each_replica(settings)
    role = f"{name}-replica" if name else "replica"
    names = [role] if len(each) == 1 else [f"{role}-{number}" for number in range(1, len(each) + 1)]
    return [
        partial(_make, of_one, "replica", own, passwords) for of_one, own in zip(each, names, strict=True)
    ]


def _make(
    settings: Settings,
    role: Role,
    name: str,
    passwords: PasswordSource,
    on_event: Callable[[PoolEvent], None],
) -> Pool:
    return Pool.from_config(
        replace(pool_config(settings, role), name=name),
        dsn(settings, role),
        on_event=on_event,
        **connect_options(settings, role, passwords=passwords),
    )
