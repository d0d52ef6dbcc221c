"""What the scenes say: the targets, and a line for each contestant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.fleet.processes import Naive, Ours
from bench.fleet.scenes import RESTART, SCALE_OUT, Outcome
from bench.targets import Target, at_most

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PART_OF_NAIVE = 1 / 5
SERVED_WITHIN = 5.0
"""Seconds after the return of the server."""
NEVER = 1e9

HEAD = ("", "scene", "processes", "peak attempts/s", "attempts", "refused", "sessions", "of",
        "served after s", "full after s", "without a place")  # fmt: skip


def targets_of(outcomes: Sequence[Outcome]) -> list[Target]:
    return [
        target for ours in outcomes if ours.contestant == Ours.name for target in _targets(ours, outcomes)
    ]


def _targets(ours: Outcome, outcomes: Sequence[Outcome]) -> Iterator[Target]:
    at = f"{ours.scene}, {ours.processes} processes"
    if ours.scene.startswith(RESTART):
        naive = next(one for one in outcomes if (one.contestant, one.scene) == (Naive.name, ours.scene))
        yield at_most(PART_OF_NAIVE, "peak of attempts, of naive back-off's", at, ours.peak / naive.peak)
        yield at_most(SERVED_WITHIN, "all served, s after the return", at, _seconds(ours.all_served))
    yield at_most(0, "refused by the server", at, ours.refused)
    if ours.scene == SCALE_OUT:
        yield at_most(ours.room, "most sessions at the same time", at, ours.most_sessions)


def _seconds(value: float | None) -> float:
    return NEVER if value is None else value


def cells(one: Outcome) -> list[str]:
    return [
        one.contestant,
        one.scene,
        str(one.processes),
        str(one.peak),
        str(one.attempts),
        str(one.refused),
        str(one.most_sessions),
        str(one.room),
        "never" if one.all_served is None else f"{one.all_served:.2f}",
        "never" if one.full_service is None else f"{one.full_service:.2f}",
        str(one.without_place),
    ]
