"""`python -m bench.readme`: bring the figures in README.md up to date with `results/pool.json`."""

from __future__ import annotations

import json
import re
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- bench:pool -->", "<!-- /bench:pool -->"

Row = dict[str, Any]  # as `json` gives it


def main() -> None:
    path = ROOT / "README.md"
    path.write_text(with_figures(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_figures(text: str) -> str:
    """The text with what stands between the markers made new."""
    answer = json.loads((ROOT / "bench/results/pool.json").read_text(encoding="utf-8"))
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{_figures(answer)}\n{END}", text)


def _figures(answer: dict[str, Any]) -> str:
    machine, plan = answer["machine"], answer["plan"]
    size = plan["pool_size"]
    return "\n".join([
        f"Borrow, `SELECT 1`, return; {size} connections; medians of {plan['rounds']} rounds.",
        "",
        "| | µs per operation at 10 / 100 / 500 borrowers | p99 wait in ms at 100 / 500 |",
        "|---|---|---|",
        *(
            _line(name, list(rows))
            for name, rows in groupby(answer["rows"], itemgetter("implementation"))
        ),
        "",
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']},"
        f" {machine['event_loop']}, PostgreSQL {machine['postgresql']}, Unix socket,"
        f" {machine['date'][:10]}; load of the machine before the start {machine['load_at_start']:g}.",
        "",
        _verdict(answer["targets"]),
    ])  # fmt: skip


def _line(name: str, rows: list[Row]) -> str:
    costs = " / ".join(f"{row['us_per_operation']:.0f}" for row in rows)
    waits = [row["wait_p99_ms"] for row in rows if row["borrowers"] > min(r["borrowers"] for r in rows)]
    waited = "-" if None in waits else " / ".join(f"{wait:.1f}" for wait in waits)
    shown = f"**{name}**" if name == "Lifeguard" else name
    return f"| {shown} | {costs} | {waited} |"


def _verdict(targets: list[Row]) -> str:
    met = sum(target["met"] for target in targets)
    where = "[results/pool.json](bench/results/pool.json)"
    return f"Of the benchmark's {len(targets)} targets {met} are met; {where} has each with its value."


if __name__ == "__main__":
    main()
