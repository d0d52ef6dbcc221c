"""One look for every plot."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS = "#0b6e99"
OURS_LIGHTER = ("#4a9bbf", "#8cc3da")
PEERS = ("#d1495b", "#edae49", "#8d6a9f")
REFERENCES = ("#b8c4cc", "#8fa3ad")

mpl.rcParams.update(
    {
        "svg.fonttype": "none",  # text stays text: a small file that can be searched
        "svg.hashsalt": "lifeguard",  # the same figures give the same file
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)


def panels(count: int, *, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes side by side."""
    figure, axes = plt.subplots(1, count, figsize=(5.2 * count, height), squeeze=False)
    return figure, list(axes[0])


def save(figure: Figure, caption: str, path: Path) -> None:
    """Write SVG, caption below; without a date, so that it changes only with its figures."""
    figure.supxlabel(fill(caption, 130), fontsize=7, color="#667788")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
