"""`python -m bench.hostile`: users beside 64 connections that mean harm."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import options, results
from bench.hostile.picture import draw
from bench.hostile.report import Row, rows_of, targets_of
from bench.hostile.trial import ATTACKS, CONNECTIONS, CONTESTANTS, EVERYTHING, RATE, Seconds, Trial, hold
from bench.machine import describe_machine
from bench.overload.trial import DEADLINE
from bench.processes import allow_many_connections
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    import argparse

FULL = Seconds(quiet=20, hostile=60)
ONE_KIND = Seconds(quiet=4, hostile=6)
QUICK = Seconds(quiet=5, hostile=10)
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg")


def main() -> int:
    chosen = _options()
    allow_many_connections()
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    rows = rows_of(_trials(chosen))
    targets = targets_of(rows)
    answer = {
        "question": "What do users get while 64 connections attack the service?",
        "machine": asdict(machine),
        "plan": {"rate": RATE, "connections": CONNECTIONS, "deadline": DEADLINE, **asdict(FULL)},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "hostile.json", answer)
    draw(rows, machine.caption(), chosen.out / "hostile.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _options() -> argparse.Namespace:
    parser = options.parser("bench.hostile", "What users get while the service is attacked.")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    parser.add_argument("--attacks", choices=list(ATTACKS), nargs="+", metavar="NAME")
    return parser.parse_args()


def _trials(chosen: argparse.Namespace) -> list[Trial]:
    attacks = chosen.attacks or ([EVERYTHING] if chosen.quick else list(ATTACKS))
    trials = []
    with throwaway_postgres() as postgres:
        for name in attacks:
            seconds = QUICK if chosen.quick else FULL if name == EVERYTHING else ONE_KIND
            for contestant in CONTESTANTS:
                if contestant.name in chosen.only:
                    print(f"{contestant.name}: {name}", file=sys.stderr)
                    trials.append(hold(contestant, name, seconds, postgres))
    return trials


def _table(rows: list[Row]) -> str:
    head = ("", "attack", "served", "p50 ms", "p99", "quiet p50", "p99", "memory MB", "breaker",
            "attacks answered", "MB sent", "connections", "service cores", "attackers",
            "users late p99 ms")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    times = (row.p50_ms, row.p99_ms, row.quiet_p50_ms, row.quiet_p99_ms)
    return [
        row.contestant,
        row.attack,
        f"{row.served:.2%}",
        *(f"{time:.1f}" for time in times),
        f"{row.memory_mb:.0f}",
        "-" if row.breaker_transitions is None else str(row.breaker_transitions),
        str(row.attacks),
        f"{row.attacks_mb:.0f}",
        str(row.connections),
        f"{row.service_cores:.2f}",
        f"{row.attackers_cores:.2f}",
        f"{row.users_late_p99_ms:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
