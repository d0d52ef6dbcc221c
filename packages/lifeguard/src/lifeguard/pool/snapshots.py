"""What a pool tells of itself: numbers of this moment, without I/O."""

from __future__ import annotations

from time import monotonic

from lifeguard.pool.connection import Status
from lifeguard.pool.events import LeaseInfo
from lifeguard.pool.leaks import lease_info
from lifeguard.pool.lending import Lending
from lifeguard.pool.poolers import Pooler
from lifeguard.pool.state import Phase, PoolState
from lifeguard.pool.stats import PoolStats


class Snapshots:
    """Mixin of `Pool`."""

    _lending: Lending
    _state: PoolState

    @property
    def name(self) -> str:
        return self._state.config.name

    @property
    def outage_patience(self) -> float:
        """The setting, in seconds."""
        return self._state.config.outage_patience

    @property
    def waits_out_outage(self) -> bool:
        """Whether there is no connection, and borrowers wait for an attempt to open one, because that has not
        been so for `outage_patience` yet. An attempt may have failed, or said nothing so far."""
        return self._lending.waits_out_outage

    @property
    def pooler(self) -> Pooler | None:
        """What is between the pool and the server, if a connection has shown a pooler."""
        return self._lending.connector.pooler

    def stats(self) -> PoolStats:
        """The numbers of this moment; no I/O."""
        return self._state.stats(of_lanes=True)

    def leases(self) -> tuple[LeaseInfo, ...]:
        """The leases of now, the longest first; no I/O."""
        now = monotonic()
        held = [p for p in self._state.members if p.status is Status.IN_USE]
        held.sort(key=lambda pooled: pooled.borrowed_at)
        return tuple(lease_info(pooled, now) for pooled in held)

    def get_size(self) -> int:
        """Live connections."""
        return len(self._state.members)

    def get_idle_size(self) -> int:
        return len(self._state.idle)

    def get_init_size(self) -> int:
        return self._state.config.first_size

    def get_min_size(self) -> int:
        return self._state.config.min_size

    def get_max_size(self) -> int:
        return self._state.config.max_size

    def is_closing(self) -> bool:
        """Draining or closed."""
        return self._state.phase in {Phase.DRAINING, Phase.CLOSED}
