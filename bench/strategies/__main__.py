"""`python -m bench.strategies`: no pool, default pools and ours through the same trouble."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import options, results
from bench.machine import describe_machine
from bench.processes import allow_many_connections
from bench.server import throwaway_postgres
from bench.strategies import trial
from bench.strategies.picture import draw
from bench.strategies.report import Row, rows_of, targets_of
from bench.strategies.trial import CONTESTANTS, Lengths, Trial, hold
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

FULL, ROUNDS = Lengths(bursts=10, jitter=8, crash=8), 2
QUICK, QUICK_ROUNDS = Lengths(bursts=4, jitter=4, crash=5), 1
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "SQLAlchemy")


def main() -> int:
    parser = options.parser("bench.strategies", "What a pool is worth to those who use the service.")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    chosen = parser.parse_args()
    allow_many_connections()
    lengths, rounds = (QUICK, QUICK_ROUNDS) if chosen.quick else (FULL, ROUNDS)
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    rows = rows_of(_trials(lengths, rounds, chosen.only))
    targets = targets_of(rows)
    answer = {
        "question": "What is a pool worth to those who use the service?",
        "machine": asdict(machine),
        "plan": {**_plan(), **asdict(lengths), "rounds": rounds},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "strategies.json", answer)
    draw(rows, machine.caption(), chosen.out / "strategies.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _plan() -> dict[str, float]:
    return {
        "deadline": trial.DEADLINE,
        "rate": trial.STEADY,
        "burst_rate": trial.BURST,
        "jitter_of_a_round_trip": trial.JITTER,
        "away": trial.AWAY,
    }


def _trials(lengths: Lengths, rounds: int, only: Sequence[str]) -> list[Trial]:
    """Contestants take turns, and who goes first changes with every round."""
    trials = []
    contestants = [contestant for contestant in CONTESTANTS if contestant.name in only]
    with throwaway_postgres() as postgres:
        for number in range(rounds):
            for contestant in contestants[number:] + contestants[:number]:
                print(f"{contestant.name}, round {number + 1} of {rounds}", file=sys.stderr)
                trials.append(hold(contestant, lengths, number, postgres))
    return trials


def _table(rows: Sequence[Row]) -> str:
    head = ("", "scene", "requests", "p50 ms", "p99", "refused", "gave up", "broken", "opened", "reuse",
            "MB / 1000", "service cores", "database", "network", "clients", "late p99 ms")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    counts = (row.refused, row.gave_up, row.broken, row.opened)
    cores = (row.service_cores, row.database_cores, row.network_cores, row.generator_cores)
    return [
        row.contestant,
        row.scene,
        str(row.requests),
        f"{row.p50_ms:.0f}",
        f"{row.p99_ms:.0f}",
        *map(str, counts),
        f"{row.reuse:.1%}",
        "-" if row.memory_mb is None else f"{row.memory_mb:.1f}",
        *("-" if share is None else f"{share:.2f}" for share in cores),
        f"{row.generator_late_p99_ms:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
