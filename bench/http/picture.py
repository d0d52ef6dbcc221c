"""The plot: what a request costs, how many are served, and memory over a long run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.http.trial import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.http.report import MemoryRow, RefusalRow, Row

WIDTH = 0.4


def draw(
    rows: Sequence[Row],
    refusals: Sequence[RefusalRow],
    memory: Sequence[MemoryRow],
    caption: str,
    path: Path,
) -> None:
    """Write the plot as SVG."""
    figure, (costs, rates, growth) = plot.panels(3, height=4.2)
    _bars(costs, rows, "read_us", "write_us", ("GET", "POST"))
    below = range(len(rows), len(rows) + len(refusals))
    costs.barh(below, [row.refused_us for row in refusals], WIDTH, color=plot.OURS_LIGHTER[1])
    names = [row.contestant for row in rows] + [f"{OURS.name}, refused: {row.manner}" for row in refusals]
    costs.set_yticks(range(len(names)), names)
    costs.set_title("processor time of an answer, µs")
    _bars(rates, rows, "reads_per_second_64", "writes_per_second", ("GET, 64 connections", "POST, 16"))
    rates.set_title("answers a second, one process")
    rates.set_yticks([])
    for run, colour in zip(memory, (plot.OURS, plot.PEERS[0]), strict=False):
        growth.plot(run.requests, run.memory_mb, color=colour, marker="o", markersize=3, label=run.contestant)
    growth.set_title("private memory, MB, over requests")
    if memory:
        growth.set_ylim(0, max(max(run.memory_mb) for run in memory) * 1.2)
        growth.legend(loc="lower right")
    for axes in (costs, rates):
        axes.invert_yaxis()
        axes.legend(loc="lower right")
    rates.set_ylim(costs.get_ylim())
    plot.save(figure, caption, path)


def _bars(axes: Axes, rows: Sequence[Row], read: str, write: str, names: tuple[str, str]) -> None:
    """Two bars a contestant, ours in its own colour."""
    labels = [row.contestant for row in rows]
    for nth, (figure, name) in enumerate(zip((read, write), names, strict=True)):
        places = [number + (nth - 0.5) * WIDTH for number in range(len(rows))]
        ours, peers = (plot.OURS, plot.OURS_LIGHTER[0])[nth], plot.REFERENCES[1 - nth]
        colours = [ours if label == OURS.name else peers for label in labels]
        axes.barh(places, [getattr(row, figure) for row in rows], WIDTH, color=colours, label=name)
