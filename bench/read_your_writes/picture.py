"""The plot: who saw less than was written, and what a token costs a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.read_your_writes.__main__ import Cost, Row

WIDTH = 0.4


def draw(rows: Sequence[Row], costs: Sequence[Cost], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (older, cost) = plot.panels(2)
    names = [f"reads with {row.reads_with}\n{row.reads:,}" for row in rows]
    bars = older.bar(names, [row.older / row.reads * 100 for row in rows], WIDTH, color=plot.OURS)
    older.bar_label(bars, [str(row.older) for row in rows], padding=2)
    older.set_title("reads that did not see the write, %")
    places = range(len(costs))
    without = [one.without_token for one in costs]
    cost.bar(
        [at - WIDTH / 2 for at in places], without, WIDTH, color=plot.REFERENCES[0], label="without a token"
    )
    asked = [one.with_token for one in costs]
    cost.bar([at + WIDTH / 2 for at in places], asked, WIDTH, color=plot.OURS, label="with one")
    cost.set_xticks(list(places), [f"{one.together} at once" for one in costs])
    cost.set_title("a transaction with one UPDATE, µs")
    cost.legend()
    plot.save(figure, caption, path)
