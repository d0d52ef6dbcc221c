"""`python -m bench.scale`: how cost grows with waiters, connections, lanes, and idle clients."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from lifeguard.development.embedded import EmbeddedServer

from bench import options, results
from bench.hostile.trial import apart
from bench.http.trial import prepared
from bench.machine import describe_machine
from bench.processes import allow_many_connections
from bench.rounds import bounded
from bench.scale.picture import draw
from bench.scale.report import Row, rows_of, targets_of
from bench.scale.trial import (
    ASKING,
    IDLE,
    MAX_CONNECTIONS,
    NUMBERS,
    Lengths,
    Point,
    of_http,
    of_the_pool,
)
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

FULL = Lengths(rounds=3, measured=1.0, idle=2.0, most=10_000)
QUICK = Lengths(rounds=1, measured=0.5, idle=0.5, most=1000)
LONGEST = 270.0
"""Seconds of all rounds: one that would go beyond is not begun."""
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg")


def main() -> int:
    chosen = _options()
    allow_many_connections()
    lengths = QUICK if chosen.quick else FULL
    lengths = replace(lengths, rounds=chosen.rounds or lengths.rounds)
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    rows = rows_of(_points(chosen.only, lengths))
    targets = targets_of(rows)
    answer = {
        "question": "How does cost grow with waiters, connections, lanes and idle clients?",
        "machine": asdict(machine),
        "plan": {"quick": chosen.quick, "asking": ASKING, **asdict(lengths)},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "scale.json", answer)
    draw(rows, machine.caption(), chosen.out / "scale.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _options() -> argparse.Namespace:
    parser = options.parser("bench.scale", "How cost grows with waiters, connections, lanes, idle clients.")
    names = list(NUMBERS)
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="WHAT")
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    return parser.parse_args()


def _points(only: Sequence[str], lengths: Lengths) -> list[Point]:
    """All numbers of all kinds, round after round."""
    points = []
    with (
        apart() as core,
        TemporaryDirectory(prefix="bench-") as directory,
        EmbeddedServer(Path(directory), disposable=True, parameters=MAX_CONNECTIONS) as postgres,
    ):
        stand = prepared(postgres, core)
        for number in bounded(lengths.rounds, LONGEST):
            _say(f"round {number + 1}")
            for what in NUMBERS:
                if what in only and what != IDLE:
                    points += list(of_the_pool(what, lengths, postgres, core))
            if IDLE in only:
                points += list(of_http(lengths, stand))
    return points


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def _table(rows: Sequence[Row]) -> str:
    head = (
        "",
        "how many",
        "cpu µs/op",
        "op/s",
        "KB each",
        "MB together",
        "server MB each",
        "cores when idle",
    )
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    return [
        row.what,
        f"{row.number:,}",
        f"{row.cost_us:.1f}",
        f"{row.per_second:,.0f}",
        "-" if row.memory_kb is None else f"{row.memory_kb:.1f}",
        f"{row.memory_mb:.1f}",
        "-" if row.backend_mb is None else f"{row.backend_mb:.2f}",
        "-" if row.idle_cores is None else f"{row.idle_cores:.3f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
