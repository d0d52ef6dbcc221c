"""The plot: the routes beside the lock over time, each class in a crowd, the tenants beside a flood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot
from bench.lanes.scenes import BACKGROUND, CRITICAL, CROWD, FLOOD, FLOODING, LOCK, NORMAL, OTHERS
from bench.lanes.trial import CONTESTANTS, OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.lanes.report import Line, Row

COLOURS = dict(zip((contestant.name for contestant in CONTESTANTS), (plot.OURS, *plot.PEERS), strict=True))
_WIDTH = 0.2
"""Of a bar; four of them beside each other leave a gap."""


def draw(rows: Sequence[Row], lines: Sequence[Line], caption: str, path: Path) -> None:
    """Write the plot as SVG."""
    figure, (lock, crowd, flood) = plot.panels(3)
    lock.axvspan(0, LOCK, color="#eef2f4")
    for line in lines:
        width = 2.4 if line.contestant == OURS.name else 1.4
        colour = COLOURS[line.contestant]
        lock.plot(line.seconds, [share * 100 for share in line.in_time], color=colour, linewidth=width)
    lock.set_title("routes beside a locked table: in time, %")
    lock.set_xlabel("s from the beginning of the lock, which lasts 10 s")
    _bars(crowd, rows, CROWD, (CRITICAL, NORMAL, BACKGROUND))
    crowd.set_title("ten times the capacity: in time, %")
    _bars(flood, rows, FLOOD, (OTHERS, FLOODING))
    flood.set_title("one tenant of 50 floods: in time, %")
    for axes in (lock, crowd, flood):
        axes.set_ylim(0, 102)
    handles, labels = crowd.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    plot.save(figure, caption, path)


def _bars(axes: Axes, rows: Sequence[Row], scene: str, groups: Sequence[str]) -> None:
    for number, (name, colour) in enumerate(COLOURS.items()):
        shares = {
            row.who: row.during.in_time * 100 for row in rows if row.scene == scene and row.contestant == name
        }
        places = [group + (number - 1.5) * _WIDTH for group in range(len(groups))]
        axes.bar(places, [shares.get(who, 0.0) for who in groups], _WIDTH, color=colour, label=name)
    axes.set_xticks(range(len(groups)), groups)
