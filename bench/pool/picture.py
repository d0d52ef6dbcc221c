"""The plot: what an operation costs, and how long the unluckiest hundredth waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.pool.implementations import (
    ASYNCPG,
    FLOOR,
    MANY_LANES,
    ONE_LANE,
    OURS,
    PSYCOPG,
    REFERENCE,
    SQLALCHEMY,
)
from bench.pool.measure import BORROWERS
from bench.pool.report import CROWDED, Row

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = {
    FLOOR.name: plot.REFERENCES[0],
    REFERENCE.name: plot.REFERENCES[1],
    OURS.name: plot.OURS,
    ONE_LANE.name: plot.OURS_LIGHTER[0],
    MANY_LANES.name: plot.OURS_LIGHTER[1],
    ASYNCPG.name: plot.PEERS[0],
    PSYCOPG.name: plot.PEERS[1],
    SQLALCHEMY.name: plot.PEERS[2],
}


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (cost, wait) = plot.panels(2)
    costs = {(row.implementation, row.borrowers): row.us_per_operation for row in rows}
    _bars(cost, costs, BORROWERS)
    cost.set_title("borrow + SELECT 1 + return, µs (log scale)")
    waits = {
        (row.implementation, row.borrowers): row.wait_p99_ms
        for row in rows
        if row.wait_p99_ms is not None and row.borrowers in CROWDED
    }
    _bars(wait, waits, CROWDED)
    wait.set_title("p99 wait to borrow, ms (log scale)")
    for axes in (cost, wait):
        axes.set_yscale("log")
        axes.set_yticks([])
        axes.minorticks_off()
        axes.spines["left"].set_visible(False)
    handles, labels = cost.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    plot.save(figure, caption, path)


def _bars(axes: Axes, values: dict[tuple[str, int], float], borrowers: Sequence[int]) -> None:
    names = list(dict.fromkeys(name for name, _ in values))
    width = 0.86 / len(names)
    for place, name in enumerate(names):
        offset = (place - (len(names) - 1) / 2) * width
        bars = axes.bar(
            [group + offset for group in range(len(borrowers))],
            [values[name, number] for number in borrowers],
            width * 0.92,
            color=COLOURS[name],
            label=name,
        )
        axes.bar_label(bars, fmt=_label, fontsize=7, padding=1)
    axes.set_xticks(range(len(borrowers)), [f"{number} borrowers" for number in borrowers])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(min(values.values()) / 2, max(values.values()) * 1.6)


def _label(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
