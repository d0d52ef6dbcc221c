"""The service's numbers at one moment, for `/metrics` and for the pool pages alike. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.database import Database
from app.pool import PoolStats

BreakerState = Literal["closed", "half-open", "open"]
BREAKER_STATES: tuple[BreakerState, ...] = ("closed", "half-open", "open")  # as numbers: 0, 1, 2


@dataclass(frozen=True, slots=True)
class BreakerNumbers:
    """State and history of the breaker in front of one pool."""

    state: BreakerState = "closed"
    transitions: Mapping[str, int] = field(default_factory=dict)
    """How often each state was entered."""


@dataclass(frozen=True, slots=True)
class PoolNumbers:
    """One pool, and the breaker in front of it."""

    stats: PoolStats
    breaker: BreakerNumbers


def numbers(database: Database) -> Iterator[PoolNumbers]:
    """Yield the numbers of the primary pool and, where there is one, of the replica's."""
    for pool in (database.primary, database.replica):
        if pool is not None:
            yield PoolNumbers(pool.stats(), BreakerNumbers())
