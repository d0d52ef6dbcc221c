"""The plot: how long no server took writes, and how soon after that one was acknowledged, event by event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.failover.report import Row


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (waits, failed) = plot.panels(2)
    names = [f"{row.manner}\n{row.events} events" for row in rows]
    for at, row in enumerate(rows):
        places = [at + (nth - (row.events - 1) / 2) * 0.8 / row.events for nth in range(row.events)]
        waits.bar(places, row.away, 0.7 / row.events, color=plot.REFERENCES[0])
        waits.bar(places, row.first_write, 0.7 / row.events, bottom=row.away, color=plot.OURS)
    waits.set_title("no server took writes (pale), then the first write, s")
    bars = failed.bar(names, [row.failed for row in rows], 0.5, color=plot.OURS)
    failed.bar_label(bars, [f"{row.failed} of {row.requests:,}" for row in rows], padding=2)
    failed.set_ylim(0, max(1, *(row.failed * 1.1 for row in rows)))
    failed.set_title("requests that failed, asked once")
    waits.set_xticks(range(len(names)), names)
    plot.save(figure, caption, path)
