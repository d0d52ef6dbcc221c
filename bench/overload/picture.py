"""The plot: what is served in time, and how long the admitted wait, as the load grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.overload.trial import (
    ASYNCPG,
    ASYNCPG_HALF_SECOND,
    DEADLINE,
    OURS,
    PSYCOPG,
    PSYCOPG_HALF_SECOND,
    SQLALCHEMY,
)
from bench.overload.work import CAPACITY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.overload.report import Row

STYLES = {
    OURS.name: (plot.OURS, "-"),
    ASYNCPG.name: (plot.PEERS[0], "-"),
    ASYNCPG_HALF_SECOND.name: (plot.PEERS[0], "--"),
    PSYCOPG.name: (plot.PEERS[1], "-"),
    PSYCOPG_HALF_SECOND.name: (plot.PEERS[1], "--"),
    SQLALCHEMY.name: (plot.PEERS[2], "-"),
}


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (goodput, latency) = plot.panels(2)
    _lines(goodput, rows, lambda row: row.goodput)
    goodput.axhline(CAPACITY, color="#99aabb", linewidth=0.8, linestyle=":")
    goodput.set_title(f"answers within {DEADLINE:g} s, per second")
    goodput.set_ylim(bottom=0)
    _lines(latency, rows, lambda row: row.admitted_p99_ms)
    latency.set_title("p99 of the admitted, ms (log scale)")
    latency.set_yscale("log")
    for axes in (goodput, latency):
        loads = sorted({row.load for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(loads, [f"{load:g} x" for load in loads])
        axes.minorticks_off()
        axes.set_xlabel("load, in capacities")
    handles, labels = goodput.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    plot.save(figure, caption, path)


def _lines(axes: Axes, rows: Sequence[Row], figure: Callable[[Row], float | None]) -> None:
    for name in dict.fromkeys(row.contestant for row in rows):
        colour, style = STYLES[name]
        points = sorted((row.load, figure(row)) for row in rows if row.contestant == name)
        known = [(load, value) for load, value in points if value is not None]
        axes.plot(
            [load for load, _ in known],
            [value for _, value in known],
            color=colour,
            linestyle=style,
            linewidth=2.4 if name == OURS.name else 1.4,
            marker="o",
            markersize=3,
            label=name,
        )
