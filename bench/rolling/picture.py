"""The plot: who was failed by each rolling restart, and how long the others waited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.rolling.trial import DRAIN, KILL, NO_DELAY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.rolling.report import Row

COLOURS = {DRAIN.name: plot.OURS, NO_DELAY.name: plot.PEERS[1], KILL.name: plot.PEERS[0]}


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (failed, latency) = plot.panels(2)
    names = [f"{row.manner}\n{row.restarts} restarts" for row in rows]
    colours = [COLOURS[row.manner] for row in rows]
    rates = [row.failed / row.restarts for row in rows]
    bars = failed.bar(names, rates, color=colours, width=0.5)
    failed.bar_label(bars, [f"{rate:.3g}" for rate in rates], padding=2)
    failed.set_title("failed requests in a rolling restart")
    places = range(len(rows))
    latency.bar([at - 0.2 for at in places], [row.p50_ms for row in rows], 0.4, color=colours, alpha=0.5)
    p99 = latency.bar([at + 0.2 for at in places], [row.p99_ms for row in rows], 0.4, color=colours)
    latency.bar_label(p99, [f"{row.p99_ms:.0f}" for row in rows], padding=2)
    latency.set_xticks(list(places), names)
    latency.set_title("p50 (pale) and p99 of all requests, ms")
    plot.save(figure, caption, path)
