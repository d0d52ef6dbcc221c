"""The service's numbers at one moment, for `/metrics` and for the pool pages alike. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.database import Breaker, BreakerState, Database
from app.pool import PoolStats

BREAKER_STATES = tuple(state.label for state in BreakerState)
"""In the order of the metric's numbers: 0, 1, 2."""


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
class PoolNumbers:
    """One pool, and the breaker in front of it."""

    stats: PoolStats
    breaker: BreakerNumbers


def numbers(database: Database) -> Iterator[PoolNumbers]:
    """Yield the numbers of the primary pool and, where there is one, of the replica's."""
    for guard in database.guards:
        yield PoolNumbers(guard.pool.stats(), BreakerNumbers.of(guard.breaker))


def rounded(value: Any, digits: int) -> Any:  # Any: whatever JSON may hold
    """Give it with every number in it rounded to so many digits: for people, who read past three or four."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {name: rounded(inner, digits) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rounded(inner, digits) for inner in value)
    return value
