"""The plot: who was served, and how long that took, with and without an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.hostile.trial import ASYNCPG, OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.hostile.report import Row

COLOURS = {OURS.name: plot.OURS, ASYNCPG.name: plot.PEERS[0]}
WIDTH = 0.4


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (served, latency) = plot.panels(2)
    attacks = list(dict.fromkeys(row.attack for row in rows))
    for nth, name in enumerate(dict.fromkeys(row.contestant for row in rows)):
        of_it = [row for row in rows if row.contestant == name]
        places = [attacks.index(row.attack) + (nth - 0.5) * WIDTH for row in of_it]
        served.bar(places, [row.served * 100 for row in of_it], WIDTH, color=COLOURS[name], label=name)
        latency.bar(places, [row.p99_ms for row in of_it], WIDTH, color=COLOURS[name])
        latency.scatter(places, [row.quiet_p99_ms for row in of_it], color="black", marker="_", zorder=3)
    served.set_title("users served during the attack, %")
    latency.set_title("their p99, ms (log scale); dashes: before the attack")
    latency.set_yscale("log")
    for axes in (served, latency):
        axes.set_xticks(range(len(attacks)), attacks, rotation=30, ha="right")
    figure.legend(loc="outside upper center", ncols=2)
    plot.save(figure, caption, path)
