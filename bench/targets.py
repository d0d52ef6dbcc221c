"""Promises that a benchmark holds its figures against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.table import text_table

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Target:
    """A promise under one load; `at` names the load."""

    promise: str
    at: str
    value: float
    bound: float
    met: bool


def at_most(bound: float, promise: str, at: str, value: float) -> Target:
    return Target(promise, at, value, bound, value <= bound)


def at_least(bound: float, promise: str, at: str, value: float) -> Target:
    return Target(promise, at, value, bound, value >= bound)


def verdicts(targets: Sequence[Target]) -> str:
    """A line per target: measured, bound, met or missed."""
    rows = [
        (target.promise, target.at, f"{target.value:.3g}", f"{target.bound:.3g}", _word(target))
        for target in targets
    ]
    return text_table(("target", "at", "measured", "bound", ""), rows)


def _word(target: Target) -> str:
    return "met" if target.met else "missed"
