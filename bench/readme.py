"""`python -m bench.readme`: write what README, the report and the guide say from `bench/results`.

The report is docs/benchmarks.md. `--check` writes nothing, and exits with 1 if a page says anything else
than the results do.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import tables
from bench.markdown import Row, line
from bench.tables import QUESTIONS, served

ROOT = Path(__file__).parents[1]

_SHORT = ("Lifeguard", "asyncpg.Pool", "SQLAlchemy")
_LONG = ("Lifeguard", "asyncpg's default pool", "SQLAlchemy's default pool")
"""Whom README shows, as most questions call them and as `bench.strategies` does."""
_QUESTION = re.compile(r"^\| (.+) \| `python -m bench\.(\w+)` \| (.+) \| (.+) \|$", re.MULTILINE)
"""In the table of bench/README.md: the question, its name, and how long it takes, also with `--quick`."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        prog="python -m bench.readme", description="Write the figures of the pages."
    )
    options.add_argument(
        "--check", action="store_true", help="exit 1 when a page is not what the results give"
    )
    check = options.parse_args(arguments).check
    stale = []
    for page, blocks in PAGES.items():
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        made = with_figures(text, blocks)
        if made != text:
            stale.append(page)
        if not check:
            path.write_text(made, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: not what bench/results gives: `python -m bench.readme`", file=sys.stderr)
    return 1 if check and stale else 0


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
    """What stands before and after the figures: of `bench.<name>`, or of several."""
    return f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"


def _asked() -> dict[str, tuple[str, str, str]]:
    """Of each question: its words, how long it takes, and with `--quick`."""
    text = (ROOT / "bench/README.md").read_text(encoding="utf-8")
    return {name: (words, full, quick) for words, name, full, quick in _QUESTION.findall(text)}


def _overview() -> list[str]:
    """A line for each question."""
    asked = _asked()
    return [
        "| question | measured | targets met | figures |",
        "|---|---|---|---|",
        *(
            f"| [{asked[name][0]}](#{_anchor(name)}) | {_date(answer)}{_quick(answer)} | {_met(answer)} |"
            f" [{name}.json](../bench/results/{name}.json) |"
            for name, answer in ((name, answer_to(name)) for name in QUESTIONS)
        ),
    ]


def _anchor(name: str) -> str:
    """Of the heading above the figures of a question."""
    text = (ROOT / REPORT).read_text(encoding="utf-8")
    heading = re.findall(r"^## (.+)$", text.partition(markers(name)[0])[0], re.MULTILINE)[-1]
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _date(answer: Row) -> str:
    return str(answer["machine"]["date"][:10])


def _quick(answer: Row) -> str:
    return ", `--quick`" if answer["plan"].get("quick") else ""


def _met(answer: Row) -> str:
    targets = answer["targets"]
    return f"{sum(target['met'] for target in targets)} of {len(targets)}"


def _full(question: str) -> Callable[[], list[str]]:
    """All about one question: its table, the machine, its targets, its plot, how to repeat it."""

    def lines() -> list[str]:
        answer = answer_to(question)
        picture = f"../bench/results/{question}.svg"
        has_picture = (ROOT / "docs" / picture).exists()
        return [
            *QUESTIONS[question](answer),
            "",
            *_shorter(answer),
            f"{_machine(answer['machine'])}.",
            "",
            _verdict(answer["targets"]),
            "",
            *([f"![{answer['question']}]({picture})", ""] if has_picture else []),
            _repeat(question),
        ]

    return lines


def _shorter(answer: Row) -> list[str]:
    if not answer["plan"].get("quick"):
        return []
    return ["These are of a `--quick` run: shorter, and noisier, than the full one.", ""]


def _machine(machine: Row) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores (load {machine['load_at_start']:g} before the"
        f" start), {machine['system']}, Python {machine['python']}, {machine['event_loop']}, PostgreSQL"
        f" {machine['postgresql']}, {packages}, {machine['date'][:10]}"
    )


def _verdict(targets: list[Row]) -> str:
    missed = [
        f'"{target["promise"]}" ({target["at"]}): {target["value"]:.3g} instead of {target["bound"]:g}'
        for target in targets
        if not target["met"]
    ]
    if not missed:
        return f"All {len(targets)} targets are met."
    return f"{len(targets) - len(missed)} of {len(targets)} targets are met. Missed: {'; '.join(missed)}."


def _repeat(question: str) -> str:
    _, full, quick = _asked()[question]
    return (
        f"Again: `python -m bench.{question}`, {full} (`--quick` {quick});"
        f" [how it is measured](../bench/README.md#bench{question}),"
        f" [all figures](../bench/results/{question}.json)."
    )


def _best() -> list[str]:
    """The three figures that decide, beside those of the pools that most services have."""
    request, overload, strategies = map(answer_to, ("http", "overload", "strategies"))
    load, plan = max(tables.LOADS), overload["plan"]
    costs = {row["contestant"]: f"{row['read_us']:.0f}" for row in request["rows"]}
    goodput = {row["contestant"]: row for row in overload["rows"] if row["load"] == load}
    trouble = {
        row["contestant"]: row for row in strategies["rows"]
    }  # the last of each is all scenes together
    dates = sorted({_date(answer) for answer in (request, overload, strategies)})
    return [
        "| | **Lifeguard** | asyncpg's pool | SQLAlchemy's |",
        "|---|---|---|---|",
        line(
            "µs of processor time for a `GET`, with everything on; the others: FastAPI and nothing on",
            [costs.get(name, "-") for name in _SHORT],
        ),
        line(
            f"answers in time per second of {plan['capacity']:g} possible, at {load:g} times that load",
            [f"{goodput[name]['goodput']:.0f}" for name in _SHORT],
        ),
        line(
            "p99 in ms through a cold start, bursts, jitter and a crash (not served)",
            [served(trouble[name]) for name in _LONG],
        ),
        "",
        f"Measured on machines with {request['machine']['cores']} cores, {_list(dates)}.{_hasty(request)}",
    ]


def _hasty(request: Row) -> str:
    """What a reader of the first row must know, if it is no full run's."""
    if not request["plan"].get("quick"):
        return ""
    load = request["machine"]["load_at_start"]
    return f" The first row is of a `--quick` run, on a machine with a load of {load:g} before its start."


def _list(words: list[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _capacity() -> list[str]:
    """What one process has carried."""
    request, scale = answer_to("http"), answer_to("scale")
    ours = next(row for row in request["rows"] if row["contestant"] == "Lifeguard")
    kinds = dict.fromkeys(row["what"] for row in scale["rows"])
    return [
        "| one process, one core | |",
        "|---|---|",
        line("`GET` of a row, a second", [f"{ours['reads_per_second_64']:,.0f}"]),
        line("`POST` in a transaction, a second", [f"{ours['writes_per_second']:,.0f}"]),
        *(
            line(f"refusals a second ({row['manner']})", [f"{row['per_second']:,.0f}"])
            for row in request["refusals"]
        ),
        line("memory at the start", [f"{ours['memory_mb']:.0f} MB"]),
        *(line(*_carried([row for row in scale["rows"] if row["what"] == kind])) for kind in kinds),
        "",
        f"{request['machine']['processor']}, {_list(sorted({_date(request), _date(scale)}))}.",
    ]


def _carried(rows: list[Row]) -> tuple[str, list[str]]:
    first, last = rows[0], rows[-1]
    cost = f"an operation costs {last['cost_us'] / first['cost_us']:.2f} times that with {first['number']}"
    if last["memory_kb"] is not None:
        cost += f"; {last['memory_kb']:.1f} KB each"
    return f"{last['number']:,} {last['what']}", [cost]


REPORT = "docs/benchmarks.md"
PAGES: Mapping[str, Mapping[str, Callable[[], list[str]]]] = {
    "README.md": {"best": _best},
    REPORT: {"all": _overview, **{question: _full(question) for question in QUESTIONS}},
    "docs/operations.md": {"capacity": _capacity},
}
"""The pages with figures, and what makes those between each pair of markers."""

if __name__ == "__main__":
    sys.exit(main())
