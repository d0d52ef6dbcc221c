"""Where answers go: one JSON file and one plot per question, both small enough to commit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_json(path: Path, answer: object) -> None:
    """Write with four significant digits: more than the machine's noise leaves standing.

    Lists of numbers stay on one line so that the file can be read and its changes reviewed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_indented(_rounded(answer), "") + "\n")


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return value


def _indented(value: object, margin: str) -> str:
    inner = margin + "  "
    if isinstance(value, dict) and any(isinstance(part, dict | list) for part in value.values()):
        lines = [f"{inner}{json.dumps(key)}: {_indented(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        lines = [inner + _indented(part, inner) for part in value]
        return "[\n" + ",\n".join(lines) + f"\n{margin}]"
    return json.dumps(value)
