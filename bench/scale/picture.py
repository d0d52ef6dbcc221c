"""The plot: what an operation costs, and what all of them take, as they become more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import plot
from bench.scale.trial import CONNECTIONS, IDLE, LANES, WAITERS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.scale.report import Row

COLOURS = {
    WAITERS: plot.OURS,
    CONNECTIONS: plot.PEERS[0],
    LANES: plot.PEERS[1],
    IDLE: plot.PEERS[2],
}


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG. Both axes of memory are logarithmic: linear growth is a line of slope 1."""
    figure, (cost, memory) = plot.panels(2)
    for what in dict.fromkeys(row.what for row in rows):
        of_it = [row for row in rows if row.what == what]
        style: dict[str, Any] = {"color": COLOURS[what], "marker": "o", "markersize": 3}  # Any: matplotlib's
        cost.plot(
            [row.number for row in of_it],
            [row.cost_us / of_it[0].cost_us for row in of_it],
            label=f"{what} ({of_it[0].cost_us:.0f} µs with {of_it[0].number})",
            **style,
        )
        grown = [row for row in of_it if row.memory_mb > 0]
        memory.plot([row.number for row in grown], [row.memory_mb for row in grown], **style)
    cost.set_title("processor time of an operation, as a multiple")
    cost.set_ylim(bottom=0)
    memory.set_title("memory of the process for all of them, MB")
    memory.set_yscale("log")
    for axes in (cost, memory):
        axes.set_xscale("log")
        axes.set_xlabel("how many")
    figure.legend(loc="outside upper center", ncols=2)
    plot.save(figure, caption, path)
