"""How large the pools of one `Database` may be: asked once, or agreed with the others all the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from lifeguard.database.errors import PoolOversized
from lifeguard.database.fleet_seat import process_name
from lifeguard.database.guard import Guard
from lifeguard.database.sizing import fit
from lifeguard.pool import PoolClosing
from lifeguard.settings import Settings

# Seconds that the start waits for the server's word on the pools' sizes.
_PATIENCE = 1.0

_log = structlog.get_logger("lifeguard.database")


def of_this_process(settings: Settings) -> Settings:
    """The settings; with POOL_INSTANCES=auto under a name that the server shows for this process only."""
    if settings.pool_instances != "auto":
        return settings
    return settings.model_copy(update={"service_name": process_name(settings.service_name)})


class Sizes:
    """Gives each pool its size."""

    def __init__(
        self, guards: Sequence[Guard], settings: Settings, on_oversized: Callable[[PoolOversized], None]
    ) -> None:
        """`on_oversized` is told why the service must not serve although the database answers."""
        self._guards = guards
        self._settings = settings
        self._on_oversized = on_oversized
        self._sizing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait a moment for the server's word."""
        self._sizing = asyncio.create_task(self._size_all(), name="pool sizing")
        await asyncio.wait({self._sizing}, timeout=_PATIENCE)

    async def stop(self) -> None:
        if self._sizing is not None:
            self._sizing.cancel()
            await asyncio.wait({self._sizing})

    async def _size_all(self) -> None:
        await asyncio.gather(*map(self._size, self._guards))

    async def _size(self, guard: Guard) -> None:
        if guard.fleet is not None:
            guard.fleet.start(self._on_oversized)
            await guard.fleet.settled.wait()
            return
        try:
            await fit(guard.pool, self._settings)
        except PoolOversized as error:
            self._on_oversized(error)
            _log.error("pool_oversized", reason=str(error))
        except PoolClosing:
            return
