"""`python -m bench.overload`: what is served as the load grows to ten times the capacity."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import options, results
from bench.machine import describe_machine
from bench.overload.picture import draw
from bench.overload.report import Row, rows_of, targets_of
from bench.overload.trial import CONTESTANTS, DEADLINE, Seconds, Trial, hold
from bench.overload.work import CAPACITY
from bench.processes import allow_many_connections
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

LOADS = (0.5, 1, 1.5, 2, 3, 5, 10)
QUICK_LOADS = (0.5, 1.5, 5, 10)
FULL = Seconds(settle=2, measured=5, calm=4)
QUICK = Seconds(settle=1.5, measured=2.5, calm=2.5)
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "psycopg-pool", "SQLAlchemy")


def main() -> int:
    chosen = _options()
    allow_many_connections()
    seconds = QUICK if chosen.quick else FULL
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    trials = _trials(chosen.loads or (QUICK_LOADS if chosen.quick else LOADS), seconds, chosen.only)
    rows = rows_of(trials)
    targets = targets_of(rows)
    answer = {
        "question": "How much is served in time when more ask than can be served?",
        "machine": asdict(machine),
        "plan": {"capacity": CAPACITY, "deadline": DEADLINE, **asdict(seconds)},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "overload.json", answer)
    draw(rows, machine.caption(), chosen.out / "overload.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _options() -> argparse.Namespace:
    parser = options.parser("bench.overload", "What is served when more ask than can be served.")
    parser.add_argument("--loads", type=float, nargs="+", help="in capacities")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    return parser.parse_args()


def _trials(loads: Sequence[float], seconds: Seconds, only: Sequence[str]) -> list[Trial]:
    """Contestants take turns at each load."""
    trials = []
    with throwaway_postgres() as postgres:
        for load in loads:
            for contestant in CONTESTANTS:
                if contestant.name not in only:
                    continue
                print(f"{contestant.name} at {load:g} x capacity", file=sys.stderr)
                trials.append(hold(contestant, load, seconds, postgres))
    return trials


def _table(rows: Sequence[Row]) -> str:
    head = ("", "load", "offered/s", "in time/s", "refused/s", "gave up/s", "broken/s",
            "admitted p50 ms", "p99", "refused p50 ms", "p99", "recovery s", "breaker",
            "service cores", "database", "clients", "late p99 ms")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    rates = (row.offered, row.goodput, row.refused, row.gave_up, row.broken)
    waits = (row.admitted_p50_ms, row.admitted_p99_ms, row.refused_p50_ms, row.refused_p99_ms)
    return [
        row.contestant,
        f"{row.load:g}",
        *(f"{rate:.0f}" for rate in rates),
        *("-" if wait is None else f"{wait:.1f}" for wait in waits),
        "not yet" if row.recovery is None else f"{row.recovery:.1f}",
        "-" if row.breaker_transitions is None else str(row.breaker_transitions),
        f"{row.service_cores:.2f}",
        f"{row.database_cores:.2f}",
        f"{row.generator_cores:.2f}",
        f"{row.generator_late_p99_ms:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
