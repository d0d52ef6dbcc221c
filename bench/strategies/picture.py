"""The plot: how long users wait, how many fail, how often connections are used again, and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.overload.trial import OURS
from bench.strategies.report import ALL, Row
from bench.strategies.trial import ASYNCPG, CONNECTION_EACH, SQLALCHEMY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

COLOURS = {
    CONNECTION_EACH.name: plot.PEERS[0],
    SQLALCHEMY.name: plot.PEERS[2],
    ASYNCPG.name: plot.PEERS[1],
    OURS.name: plot.OURS,
}


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (latency, failed, kept) = plot.panels(3)
    scenes = list(dict.fromkeys(row.scene for row in rows))
    _bars(latency, rows, scenes, lambda row: row.p99_ms / 1e3)
    latency.set_title("p99 of the users, s (log scale)")
    latency.set_yscale("log")
    latency.set_ylim(bottom=0.01)
    _bars(failed, rows, scenes, lambda row: row.failed / row.requests * 100)
    failed.set_title("users who were not served, %")
    _bars(kept, rows, [ALL], lambda row: row.reuse * 100)
    _bars(kept, rows, [ALL], lambda row: row.memory_mb or 0, after=1)
    kept.set_xticks([0, 1], ["requests without a new\nconnection, %", "memory for a\nthousand requests, MB"])
    kept.set_title("reuse and memory")
    for axes in (latency, failed, kept):
        axes.set_yticks([])
        axes.minorticks_off()
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="x", length=0)
    handles, labels = latency.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    plot.save(figure, caption, path)


def _bars(
    axes: Axes, rows: Sequence[Row], scenes: Sequence[str], figure: Callable[[Row], float], after: int = 0
) -> None:
    """A group of bars for each scene, beginning with place `after`."""
    names = list(dict.fromkeys(row.contestant for row in rows))
    width = 0.86 / len(names)
    for place, name in enumerate(names):
        offset = after + (place - (len(names) - 1) / 2) * width
        values = {row.scene: figure(row) for row in rows if row.contestant == name}
        bars = axes.bar(
            [group + offset for group in range(len(scenes))],
            [values[scene] for scene in scenes],
            width * 0.92,
            color=COLOURS[name],
            label=name,
        )
        axes.bar_label(bars, fmt=_label, fontsize=7, padding=1)
    axes.set_xticks(range(len(scenes)), scenes)


def _label(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == 0 else f"{value:.2g}"
