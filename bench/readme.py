"""`python -m bench.readme`: write the figures of README and docs/benchmarks.md from `bench/results`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOADS = (1, 1.5, 3, 5, 10)
"""Of the overload that is shown, in capacities."""

SCENES = {"a thousand": "a thousand at once", "bursts": "bursts", "jitter": "jitter", "crash": "crash"}
"""Of `bench.strategies`, and what they are called."""

_SHORT = ("Lifeguard", "asyncpg.Pool", "SQLAlchemy")
_LONG = ("Lifeguard", "asyncpg's default pool", "SQLAlchemy's default pool")
"""Whom README shows, as the pools' questions call them and as `bench.strategies` does."""

Row = dict[str, Any]  # as `json` gives it


def main() -> None:
    for page, blocks in PAGES.items():
        path = ROOT / page
        path.write_text(with_figures(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")


def with_figures(text: str, blocks: Mapping[str, Callable[[], list[str]]]) -> str:
    """The text with what stands between the markers made new."""
    for name, lines in blocks.items():
        begin, end = markers(name)
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = before + "\n".join([begin, *lines(), end]) + after
    return text


def answer_to(question: str) -> Row:
    """What was measured the last time."""
    answer: Row = json.loads((ROOT / f"bench/results/{question}.json").read_text(encoding="utf-8"))
    return answer


def markers(name: str) -> tuple[str, str]:
    """What stands before and after the figures: of `bench.<name>`, or of all."""
    return f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"


def _overload(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"Requests answered in time, per second. Capacity: {plan['capacity']:g} per second; clients give up"
        f" after {plan['deadline']:g} s.",
        "",
        f"| load, in capacities | {' | '.join(f'{load:g}' for load in LOADS)} |",
        f"|---{'|---' * len(LOADS)}|",
        *(
            _line(name, [f"{row['goodput']:.0f}" for row in rows if row["load"] in LOADS])
            for name, rows in _by(answer["rows"], "contestant")
        ),
        "",
        f"{_machine(answer['machine'])}.",
    ]


def _lanes(answer: Row) -> list[str]:
    plan = answer["plan"]
    shown = list(dict.fromkeys((row["scene"], row["who"]) for row in answer["rows"]))
    return [
        f"Share of the requests that were answered within {plan['deadline']:g} s.",
        "",
        f"| | {' | '.join(f'{scene}: {who}' for scene, who in shown)} |",
        f"|---{'|---' * len(shown)}|",
        *(
            _line(name, [_share(row["during"]["in_time"]) for row in rows])
            for name, rows in _by(answer["rows"], "contestant")
        ),
        "",
        f"{_machine(answer['machine'])}.",
    ]


def _share(share: float) -> str:
    """With as many digits as tell it from all of them."""
    return f"{share:.1%}" if share < 0.995 else f"{share:.2%}"


def _pool(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"Borrow, `SELECT 1`, return; {plan['pool_size']} connections; medians of {plan['rounds']} rounds.",
        "",
        "| | µs per operation at 10 / 100 / 500 borrowers | p99 wait in ms at 100 / 500 |",
        "|---|---|---|",
        *(_line(name, _costs(rows)) for name, rows in _by(answer["rows"], "implementation")),
        "",
        f"{_machine(answer['machine'])}, Unix socket.",
    ]


def _costs(rows: list[Row]) -> list[str]:
    costs = [f"{row['us_per_operation']:.0f}" for row in rows]
    fewest = min(row["borrowers"] for row in rows)
    waits = [row["wait_p99_ms"] for row in rows if row["borrowers"] > fewest]
    waited = "-" if None in waits else " / ".join(f"{wait:.1f}" for wait in waits)
    return [" / ".join(costs), waited]


def _strategies(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"The p99 of those who were served or gave up, in ms; clients give up after {plan['deadline']:g} s."
        " In parentheses the share that was not served.",
        "",
        f"| | {' | '.join(SCENES.values())} | all | reuse | MB for a thousand |",
        f"|---{'|---' * (len(SCENES) + 3)}|",
        *(_line(name, _trouble(rows)) for name, rows in _by(answer["rows"], "contestant")),
        "",
        f"{_machine(answer['machine'])}.",
    ]


def _trouble(rows: list[Row]) -> list[str]:
    """A cell for each scene and one for all of them, which come last, then reuse and memory."""
    return [*map(_served, rows), f"{rows[-1]['reuse']:.0%}", f"{rows[-1]['memory_mb']:.0f}"]


def _served(row: Row) -> str:
    failed = (row["refused"] + row["gave_up"] + row["broken"]) / row["requests"]
    return f"{row['p99_ms']:.0f} ({failed:.0%})"


def _by(rows: list[Row], name: str) -> list[tuple[str, list[Row]]]:
    """The rows of each, in the order of their first appearance."""
    return [
        (key, [row for row in rows if row[name] == key]) for key in dict.fromkeys(row[name] for row in rows)
    ]


def _line(name: str, cells: list[str]) -> str:
    shown = f"**{name}**" if name == "Lifeguard" else name
    return f"| {shown} | {' | '.join(cells)} |"


def _machine(machine: Row) -> str:
    return (
        f"{machine['processor']}, {machine['cores']} cores (load {machine['load_at_start']:g} before the"
        f" start), Python {machine['python']}, {machine['event_loop']}, PostgreSQL {machine['postgresql']},"
        f" {machine['date'][:10]}"
    )


def _verdict(question: str, targets: list[Row]) -> str:
    where = f"[results/{question}.json](../bench/results/{question}.json)"
    missed = [
        f'"{target["promise"]}" ({target["at"]}): {target["value"]:.3g} instead of {target["bound"]:g}'
        for target in targets
        if not target["met"]
    ]
    if not missed:
        return f"All {len(targets)} targets are met: {where}."
    met = len(targets) - len(missed)
    return f"{met} of {len(targets)} targets are met: {where}. Missed: {'; '.join(missed)}."


def _best_lines() -> list[str]:
    """A figure of each question, beside those of the pools that most services have."""
    pool, overload, strategies = map(answer_to, ("pool", "overload", "strategies"))
    crowd = max(row["borrowers"] for row in pool["rows"])
    load, plan = max(LOADS), overload["plan"]
    costs = {row["implementation"]: row for row in pool["rows"] if row["borrowers"] == crowd}
    goodput = {row["contestant"]: row for row in overload["rows"] if row["load"] == load}
    trouble = {
        row["contestant"]: row for row in strategies["rows"]
    }  # the last of each is all scenes together
    dates = sorted({answer["machine"]["date"][:10] for answer in (pool, overload, strategies)})
    return [
        "| | **Lifeguard** | asyncpg's pool | SQLAlchemy's |",
        "|---|---|---|---|",
        _line(
            f"µs to borrow, `SELECT 1` and return, {crowd} borrowers",
            [f"{costs[name]['us_per_operation']:.0f}" for name in _SHORT],
        ),
        _line(
            f"answers in time per second of {plan['capacity']:g} possible, at {load:g} times that load",
            [f"{goodput[name]['goodput']:.0f}" for name in _SHORT],
        ),
        _line(
            "p99 in ms through a cold start, bursts, jitter and a crash (not served)",
            [_served(trouble[name]) for name in _LONG],
        ),
        "",
        f"Measured on machines with {pool['machine']['cores']} cores, {' and '.join(dates)}.",
    ]


def _full(question: str) -> Callable[[], list[str]]:
    """The table of one question, and whether its targets are met."""

    def lines() -> list[str]:
        answer = answer_to(question)
        return [*_FIGURES[question](answer), "", _verdict(question, answer["targets"])]

    return lines


_FIGURES = {"strategies": _strategies, "overload": _overload, "lanes": _lanes, "pool": _pool}
PAGES: Mapping[str, Mapping[str, Callable[[], list[str]]]] = {
    "README.md": {"best": _best_lines},
    "docs/benchmarks.md": {question: _full(question) for question in _FIGURES},
}
"""The pages with figures, and what makes those between each pair of markers."""

if __name__ == "__main__":
    main()
