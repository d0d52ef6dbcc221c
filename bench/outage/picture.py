"""The plot: until when answers were slow, and how many succeeded again, by how long the server was away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.overload.trial import ASYNCPG, OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.outage.report import Row

COLOURS = {OURS.name: plot.OURS, ASYNCPG.name: plot.PEERS[0]}
WIDTH = 0.4


def draw(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (slow, served) = plot.panels(2)
    names = list(dict.fromkeys(row.contestant for row in rows))
    stops = [f"{row.mode}\n{row.away:.1f} s" for row in rows if row.contestant == names[0]]
    for nth, name in enumerate(names):
        of_it = [row for row in rows if row.contestant == name]
        places = [at + (nth - (len(names) - 1) / 2) * WIDTH for at in range(len(of_it))]
        slow.bar(places, [row.slow_until for row in of_it], WIDTH, color=COLOURS[name], label=name)
        served.bar(places, [row.first_second * 100 for row in of_it], WIDTH, color=COLOURS[name])
    slow.set_title("an answer took more than 50 ms until, s after the stop")
    served.set_title("succeeded in the first second after the return, %")
    for axes in (slow, served):
        axes.set_xticks(range(len(stops)), stops)
    figure.legend(loc="outside upper center", ncols=2)
    plot.save(figure, caption, path)
