"""What is looked at from time to time: age, idleness, health, overdue leases."""

from __future__ import annotations

import asyncio
from contextvars import Context
from time import monotonic

from lifeguard.pool.connection import PooledConnection
from lifeguard.pool.events import Level
from lifeguard.pool.faults import PasswordUnavailable, is_same
from lifeguard.pool.lending import Lending
from lifeguard.pool.passwords import Passwords

# Seconds: the shortest and the longest pause between two looks.
_SHORTEST, _LONGEST = 0.02, 1.0
# A look comes at least this often within the shortest of the periods it watches.
_LOOKS_PER_PERIOD = 4
# Durations are sorted in so many at a time, and so many seconds later again while there are more than a few.
# To sort in those of a whole second at once would block a busy event loop for longer than the average wait.
_FOLDED_AT_ONCE = 1000
_FEW = 100
_FOLDING_PAUSE = 0.02


class Housekeeping:
    """A timer that walks over the idle connections and the leases; it does no I/O itself."""

    def __init__(self, lending: Lending) -> None:
        self._lending = lending
        self._state = lending.state
        self._timer: asyncio.TimerHandle | None = None
        self._folding: asyncio.TimerHandle | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._not_renewed: Exception | None = None
        config = self._state.config
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
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._look, context=Context())

    def stop(self) -> None:
        for timer in (self._timer, self._folding):
            if timer is not None:
                timer.cancel()
        self._timer = self._folding = None
        if self._renewal is not None and not self._renewal.get_loop().is_closed():
            self._renewal.cancel()

    def _look(self) -> None:
        self.start()
        now = monotonic()
        lending, state = self._lending, self._state
        opener, closer = lending.opener, lending.closer
        lending.leaks.look(now)
        if state.read_only_since is None:  # else nothing could replace them
            closer.retire([p for p in state.members if now >= p.expires_at], "lifetime")
        closer.make_room_to_look()
        closer.retire(self._surplus(now), "idle")
        for pooled in self._silent(now):
            lending.probe(pooled)
        if opener.blocked and lending.connector.has_new_password():
            opener.hasten()
        lending.pump()
        self._renew_passwords()
        if self._folding is None:
            self._fold()

    def _renew_passwords(self) -> None:
        """Have the next ones asked for ahead of their expiry, so that no attempt to connect waits for one."""
        if self._renewal is not None and not self._renewal.done():
            return
        if due := self._lending.connector.due_passwords():
            loop = asyncio.get_running_loop()
            name = f"pool {self._state.config.name}: renew password"
            self._renewal = loop.create_task(self._renew(due), name=name, context=Context())

    async def _renew(self, due: list[Passwords]) -> None:
        for passwords in due:
            try:
                await self._lending.connector.renew(passwords)
            except PasswordUnavailable as error:
                left, before, self._not_renewed = passwords.seconds_left, self._not_renewed, error
                level: Level = "debug" if is_same(error, before) else "warning"
                self._lending.report(level, "password_not_renewed", error=error, expires_in=left)
            else:
                self._not_renewed = None

    def _fold(self) -> None:
        """Sort in some of what was measured; go on soon while there is much."""
        self._folding = None
        if self._state.tally.fold(_FOLDED_AT_ONCE) > _FEW:
            self._folding = asyncio.get_running_loop().call_later(_FOLDING_PAUSE, self._fold)

    def _surplus(self, now: float) -> list[PooledConnection]:
        """Idle for too long and above the minimum; the coldest first."""
        config = self._state.config
        if not config.idle_timeout:
            return []
        above_minimum = max(len(self._state.members) - config.min_size, 0)
        cold = [p for p in self._state.idle if now - p.idle_since > config.idle_timeout]
        return cold[:above_minimum]

    def _silent(self, now: float) -> list[PooledConnection]:
        """Idle ones from which nothing was heard for too long; none while the pool sleeps."""
        interval = self._state.config.health_check_interval
        if not interval or self._sleeps(now, interval):
            return []
        return [p for p in self._state.idle if now - p.heard_of_at > interval]

    def _sleeps(self, now: float, interval: float) -> bool:
        """Whether a pool without a minimum has lent nothing for so long. Its server may sleep as well, and a
        health check would wake it or keep it awake."""
        state = self._state
        if state.config.min_size or len(state.idle) < len(state.members):
            return False
        return all(now - pooled.idle_since > interval for pooled in state.idle)
