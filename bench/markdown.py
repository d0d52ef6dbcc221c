"""What the tables of the report are made of: a head and lines, in Markdown."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]  # as `json` gives it


def line(name: str, cells: list[str]) -> str:
    shown = f"**{name}**" if name == "Lifeguard" else name
    return f"| {shown} | {' | '.join(cells)} |"


def head(*columns: str) -> list[str]:
    """The head of a table, and the line below it."""
    return [f"| {' | '.join(columns)} |".replace("|  |", "| |"), "|---" * len(columns) + "|"]
