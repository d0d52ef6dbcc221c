"""What no start waits for: imported a second after it, or by whoever needs it sooner.

A process that is started for a request answers that first; one that stays has all of it before it is asked.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from importlib.util import find_spec

MODULES = (
    "lifeguard.observability.metrics",
    "lifeguard.database.attempts",
    "lifeguard.server.socket_protocol",
)
LIBRARIES = ("prometheus_client", "prometheus_fastapi_instrumentator", "tenacity", "websockets")
"""What these import. That one is missing is said at the start, and not at the first request that needs it."""
_AFTER = 1.0  # seconds


def check() -> None:
    """Raise ModuleNotFoundError for libraries that are not installed."""
    if missing := [name for name in LIBRARIES if name not in sys.modules and find_spec(name) is None]:
        raise ModuleNotFoundError(f"not installed, and needed by this service: {', '.join(missing)}")


async def import_them() -> None:
    """In a thread, which lets the event loop go on every few milliseconds."""
    await asyncio.sleep(_AFTER)
    for name in MODULES:
        if name not in sys.modules:
            await asyncio.to_thread(import_module, name)
