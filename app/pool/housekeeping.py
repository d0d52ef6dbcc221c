"""What has to be looked at from time to time: age, idleness, health, overdue leases."""

from __future__ import annotations

import asyncio
from time import monotonic

from app.pool.circulation import Circulation

# Seconds: the shortest and the longest pause between two looks.
_SHORTEST, _LONGEST = 0.02, 1.0
# A look comes at least this often within the shortest of the periods it watches.
_LOOKS_PER_PERIOD = 4


class Housekeeping:
    """A timer that walks over the idle connections and the leases; it does no I/O itself."""

    def __init__(self, circulation: Circulation) -> None:
        self._circulation = circulation
        self._timer: asyncio.TimerHandle | None = None
        config = circulation.config
        periods = [
            period
            for period in (
                config.idle_timeout,
                config.max_lifetime,
                config.health_check_interval,
                config.leak_threshold,
            )
            if period
        ]
        shortest = min(periods, default=_LONGEST) / _LOOKS_PER_PERIOD
        self._pause = min(max(shortest, _SHORTEST), _LONGEST)

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.start()
        now = monotonic()
        circulation = self._circulation
        circulation.leaks.look(circulation.members, now)
        self._retire_and_probe(now)
        circulation.pump()

    def _retire_and_probe(self, now: float) -> None:
        circulation = self._circulation
        config = circulation.config
        surplus = len(circulation.members) - config.min_size
        for pooled in tuple(circulation.idle):  # the coldest first
            idle_for = now - pooled.idle_since
            if now >= pooled.expires_at:
                circulation.discard(pooled, "lifetime")
                surplus -= 1
            elif surplus > 0 and config.idle_timeout and idle_for > config.idle_timeout:
                circulation.discard(pooled, "idle")
                surplus -= 1
            elif config.health_check_interval and (now - pooled.heard_of_at > config.health_check_interval):
                circulation.probe(pooled)
