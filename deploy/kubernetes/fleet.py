"""The proof that an autoscaler stops where the server does, for processes that share it by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from lifeguard.database.fleet import budget

from app.settings import Settings


def shares(settings: Settings) -> bool:
    """Whether the processes find each other at the server."""
    return settings.pool_instances == "auto"


def budget_of(settings: Settings, available: int, others: int) -> int:
    """Sessions for all processes, as they compute it themselves."""
    return budget(available, available - others, settings.pool_headroom)


def faults(
    settings: Settings, available: int, others: int, pods: int, *, behind_pooler: bool
) -> Iterator[str]:
    """Each of so many pods, those of a rollout included, has a seat and its minimum."""
    if behind_pooler:
        yield "POOL_INSTANCES=auto counts sessions at the server, and behind PgBouncer those are PgBouncer's"
    each = 1 + max(1, settings.pool_min_size)
    total = budget_of(settings, available, others)
    if pods > total // each:
        yield (
            f"there may be {pods} pods; of {total} sessions {total // each} have a seat and"
            f" POOL_MIN_SIZE={settings.pool_min_size}"
        )
