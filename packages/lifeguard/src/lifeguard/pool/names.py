"""What a borrower may call itself by: its lane, and how important it is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Priority = Literal["critical", "normal", "background"]
"""The lower is refused first, and served after the higher: in overload by one hand-over in 64."""

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)
"""The most important first."""

Place: TypeAlias = tuple[Hashable, int]
"""A lane's name and a rank: a place in `PRIORITIES`."""
NOWHERE: Final = object()
"""Is no place."""


@dataclass(frozen=True, slots=True)
class OutsideLane:
    """A lane whose name comes from outside, as a tenant's does.

    However many names come, a bounded number of them gets a lane of its own: see `newcomers` in docs/pool.md.
    Any other hashable value is a lane that the program itself has named.
    """

    name: str

    def __str__(self) -> str:
        return self.name


def rank_of(priority: object) -> int:
    """Its place in `PRIORITIES`. Raises ValueError when it has none."""
    if priority not in PRIORITIES:
        raise ValueError(f"priority must be one of {', '.join(PRIORITIES)}, got {priority!r}")
    return PRIORITIES.index(priority)
