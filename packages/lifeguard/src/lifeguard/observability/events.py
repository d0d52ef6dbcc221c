"""Pool events as log lines: what happened, and the pool's numbers when it did."""

from __future__ import annotations

import structlog

from lifeguard.database.connect_options import with_remedy
from lifeguard.observability.pool_numbers import rounded
from lifeguard.pool import PoolEvent

# Of seconds: a tenth of a millisecond.
_DIGITS = 4

_log = structlog.get_logger("lifeguard.pool")


def log_pool_event(event: PoolEvent) -> None:
    """Write one line for `event`: the pool's numbers, then what the event itself has to say."""
    stats = event.stats
    fields: dict[str, object] = {
        "pool": stats.name,
        "size": stats.size,
        "idle": stats.idle,
        "used": stats.used,
        "validating": stats.validating,
        "returning": stats.returning,
        "opening": stats.opening,
        "closing": stats.closing,
        "waiting": stats.waiting,
        "max_size": stats.max_size,
        **rounded(event.details, _DIGITS),
    }
    if "error" in fields:
        fields["error"] = with_remedy(str(fields["error"]))
    write = getattr(_log, event.level)
    write(event.name, **fields)
