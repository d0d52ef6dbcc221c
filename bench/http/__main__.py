"""`python -m bench.http`: what a request costs with everything on, beside the smallest of the peers."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from bench import options, results
from bench.hostile.trial import apart
from bench.http.picture import draw
from bench.http.report import MemoryRow, RefusalRow, Report, Row
from bench.http.trial import (
    CONTESTANTS,
    LONG_RUNS,
    OURS,
    WRITERS,
    Lengths,
    hold,
    prepared,
    refuse,
    run_long,
)
from bench.http.work import POOL_SIZE
from bench.machine import describe_machine
from bench.rounds import bounded
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

FULL = Lengths(rounds=3, settle=0.3, measured=1.2, half=2.1, requests=1_000_000, longest=110.0)
QUICK = Lengths(rounds=1, settle=0.2, measured=0.7, half=1.2, requests=20_000, longest=20.0)
LONGEST = 330.0
"""Seconds of all rounds: one that would go beyond is not begun. Starts take long on a busy machine."""
INSTRUMENTATOR = "prometheus-fastapi-instrumentator"
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "psycopg-pool", "SQLAlchemy", INSTRUMENTATOR)


def main() -> int:
    chosen = _options()
    lengths = _lengths(chosen)
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    report = _measured(chosen, lengths)
    lengths = replace(lengths, rounds=len({turn.round for turn in report.turns}))
    rows, refusals, memory, targets = (
        report.rows(),
        report.refusal_rows(),
        report.memory_rows(),
        report.targets(),
    )
    answer = {
        "question": "What does a request cost with everything on?",
        "machine": asdict(machine),
        "plan": {"quick": chosen.quick, "pool_size": POOL_SIZE, "writers": WRITERS, **asdict(lengths)},
        "rows": [asdict(row) for row in rows],
        "refusals": [asdict(row) for row in refusals],
        "memory": [asdict(row) for row in memory],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "http.json", answer)
    draw(rows, refusals, memory, machine.caption(), chosen.out / "http.svg")
    parts = (machine.caption(), _table(rows), _refusals(refusals), _memory(memory))
    print("\n\n".join((*parts, verdicts(targets), f"written to {chosen.out}")))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _options() -> argparse.Namespace:
    parser = options.parser("bench.http", "What a request costs with everything on, beside the peers.")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    parser.add_argument(
        "--million", action="store_true", help="memory over a million requests, however long it takes"
    )
    return parser.parse_args()


def _lengths(chosen: argparse.Namespace) -> Lengths:
    lengths = QUICK if chosen.quick else FULL
    lengths = replace(lengths, rounds=chosen.rounds or lengths.rounds)
    return replace(lengths, requests=FULL.requests, longest=None) if chosen.million else lengths


def _measured(chosen: argparse.Namespace, lengths: Lengths) -> Report:
    """Contestants take turns, and who goes first changes with every round."""
    taking_part = [contestant for contestant in CONTESTANTS if contestant.name in chosen.only]
    turns, refusals, long_runs = [], [], []
    # Everything but the service has the other cores, the database included.
    with apart() as core, throwaway_postgres() as postgres:
        stand = prepared(postgres, core)
        for number in bounded(lengths.rounds, LONGEST):
            first = number * len(taking_part) // lengths.rounds
            for contestant in taking_part[first:] + taking_part[:first]:
                _say(f"{contestant.name}, round {number + 1}")
                turns.append(hold(contestant, number, lengths, stand))
            if OURS in taking_part:
                _say(f"refusals, round {number + 1}")
                refusals.append(refuse(number, lengths, stand))
        for contestant in LONG_RUNS if chosen.million else LONG_RUNS[:1]:
            if contestant in taking_part:
                _say(f"{contestant.name}, {lengths.requests} requests")
                long_runs.append(run_long(contestant, lengths, stand))
    order = {contestant: place for place, contestant in enumerate(taking_part)}
    return Report(sorted(turns, key=lambda turn: (order[turn.contestant], turn.round)), refusals, long_runs)


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def _table(rows: Sequence[Row]) -> str:
    head = ("", "GET/s at 16", "at 64", "cpu µs", "x bare", "POST/s", "cpu µs", "x bare", "half: /s",
            "p50 ms", "p99", "start s", "MB", "after", "database cores", "clients", "unexpected")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    return [
        row.contestant,
        f"{row.reads_per_second_16:,.0f}",
        f"{row.reads_per_second_64:,.0f}",
        f"{row.read_us:.0f}",
        _times(row.read_times_bare),
        f"{row.writes_per_second:,.0f}",
        f"{row.write_us:.0f}",
        _times(row.write_times_bare),
        f"{row.half_rate:,.0f}",
        f"{row.half_p50_ms:.1f}",
        f"{row.half_p99_ms:.1f}",
        f"{row.start_s:.2f}",
        f"{row.memory_mb:.1f}",
        f"{row.memory_after_mb:.1f}",
        f"{row.database_cores:.2f}",
        f"{row.clients_cores:.2f}",
        str(row.unexpected),
    ]


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _refusals(rows: Sequence[RefusalRow]) -> str:
    head = ("refused", "a second", "cpu µs", "x served GET", "unexpected")
    return text_table(
        head,
        [
            (
                row.manner,
                f"{row.per_second:,.0f}",
                f"{row.refused_us:.0f}",
                f"{row.times_served:.2f}",
                str(row.unexpected),
            )
            for row in rows
        ],
    )


def _memory(rows: Sequence[MemoryRow]) -> str:
    head = ("memory, MB", "at the start", "after", "requests", "MB", "after", "requests", "MB")
    return text_table(
        head,
        [
            (
                row.contestant,
                f"{row.memory_mb[0]:.1f}",
                "",
                f"{row.requests[1]:,}",
                f"{row.memory_mb[1]:.1f}",
                "",
                f"{row.requests[-1]:,}",
                f"{row.memory_mb[-1]:.1f}",
            )
            for row in rows
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
