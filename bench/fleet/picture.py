"""The plot: attempts in each second, of each scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.fleet.processes import Naive, Ours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.fleet.scenes import Outcome

_SHOWN = 40
"""Seconds."""


def draw(outcomes: Sequence[Outcome], caption: str, path: Path) -> None:
    scenes = list(dict.fromkeys(one.scene for one in outcomes))
    figure, axes = plot.panels(len(scenes))
    for axis, scene in zip(axes, scenes, strict=True):
        for one in outcomes:
            if one.scene == scene and one.contestant in {Ours.name, Naive.name}:
                colour = plot.OURS if one.contestant == Ours.name else plot.PEERS[0]
                rates = one.rates[:_SHOWN]
                axis.step(range(len(rates)), rates, where="post", color=colour, label=one.contestant)
        axis.set_title(f"{scene}, {_processes(outcomes, scene)} processes")
        axis.set_xlabel("seconds")
        axis.set_ylabel("attempts to connect")
        axis.set_yscale("symlog", linthresh=10)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    plot.save(figure, caption, path)


def _processes(outcomes: Sequence[Outcome], scene: str) -> int:
    return next(one.processes for one in outcomes if one.scene == scene)
