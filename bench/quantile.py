"""Quantiles by nearest rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; they must be sorted and not be none."""
    return ascending[min(int(len(ascending) * share), len(ascending) - 1)]
