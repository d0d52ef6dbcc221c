"""The service's numbers at one moment, for `/metrics` and for the pool pages alike. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, get_args

from lifeguard.database import (
    Breaker,
    BreakerState,
    Database,
    FleetReport,
    Guard,
    LaneReport,
    Replica,
    Standing,
)
from lifeguard.observability.lane_names import shown_name, with_shown_names
from lifeguard.observability.scrub import Scrubber
from lifeguard.pool import PoolStats

BREAKER_STATES = tuple(state.label for state in BreakerState)
"""In the order of the metric's numbers: 0, 1, 2."""


STANDINGS: tuple[str, ...] = get_args(Standing)
"""What a replica can be found to be."""


@dataclass(frozen=True, slots=True)
class BreakerNumbers:
    """State and history of the breaker in front of one pool."""

    state: str = BreakerState.CLOSED.label
    """One of `BREAKER_STATES`."""
    transitions: Mapping[str, int] = field(default_factory=dict)
    """How often each state was entered."""

    @classmethod
    def of(cls, breaker: Breaker) -> BreakerNumbers:
        return cls(breaker.state.label, dict(breaker.transitions))


@dataclass(frozen=True, slots=True)
class ReplicaNumbers:
    """What is known of a replica besides its pool."""

    serves: bool
    """Whether reads go there."""
    standing: str
    """What it was found to be when it was last asked: one of `lifeguard.database.lag.Standing`."""
    lag_seconds: float | None = None
    """How far it is behind the primary; None while that is not known."""
    lag_bytes: int | None = None
    obstacle: str = ""
    """Why it is not read; empty while it is, and while nothing is known."""
    repeated: int = 0
    """How many reads it has cancelled that the primary answered instead."""
    host: str = ""
    """Where it is, with its port: what its URL says."""

    @classmethod
    def of(cls, replica: Replica) -> ReplicaNumbers:
        lag = replica.lag.lag
        seconds = lag.seconds if lag is not None and isfinite(lag.seconds) else None
        return cls(
            serves=replica.serves,
            standing=replica.lag.standing,
            lag_seconds=seconds,
            lag_bytes=None if lag is None else lag.size,
            obstacle=replica.obstacle,
            repeated=replica.repeated,
            host=replica.host,
        )


@dataclass(frozen=True, slots=True)
class PoolNumbers:
    """One pool, and the breaker in front of it."""

    stats: PoolStats
    breaker: BreakerNumbers
    reads: int = 0
    """How many reads it has served."""
    replica: ReplicaNumbers | None = None
    """None of the primary's pool."""
    hanging_lane: LaneReport | None = None
    """The lane that hangs; None while none does."""
    reads_with_token: Mapping[str, int] = field(default_factory=dict)
    """What became of reads that had to see a write, in the primary's numbers: see `Consistency.reads`."""
    fleet: FleetReport | None = None
    """What is known of the processes that share the server, with POOL_INSTANCES=auto."""


def numbers(database: Database, scrub: Scrubber) -> Iterator[PoolNumbers]:
    """Yield the numbers of the primary pool and of each replica's.

    Names of lanes are as they may be shown.
    """
    for guard in database.guards:
        stats = guard.pool.stats()
        yield PoolNumbers(
            with_shown_names(stats, scrub),
            BreakerNumbers.of(guard.breaker),
            database.reads[stats.name],
            _replica(guard),
            _hanging_lane(guard, scrub),
            {} if isinstance(guard, Replica) else database.consistency.counts(),
            guard.fleet.report if guard.fleet else None,
        )


def _hanging_lane(guard: Guard, scrub: Scrubber) -> LaneReport | None:
    report = guard.lane_watch.report
    return replace(report, lane=shown_name(report.lane, scrub)) if report else None


def _replica(guard: Guard) -> ReplicaNumbers | None:
    return ReplicaNumbers.of(guard) if isinstance(guard, Replica) else None


def rounded(value: Any, digits: int) -> Any:  # Any: whatever JSON may hold
    """Give it with every number in it rounded to so many digits: for people, who read past three or four."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {name: rounded(inner, digits) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rounded(inner, digits) for inner in value)
    return value
