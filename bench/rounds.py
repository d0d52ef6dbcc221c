"""Rounds, for as long as there is time."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def bounded(rounds: int, longest: float, clock: Callable[[], float] = monotonic) -> Iterator[int]:
    """Numbers of rounds, the first one always; no other that would end after `longest` seconds of all.

    A round is expected to take as long as the longest before it.
    """
    began = clock()
    slowest = 0.0
    for number in range(rounds):
        before = clock()
        if number and before - began + slowest > longest:
            return
        yield number
        slowest = max(slowest, clock() - before)
