"""`python -m bench.outage`: the database goes and comes back under load."""

from __future__ import annotations

import sys
from dataclasses import asdict

from bench import options, results
from bench.machine import describe_machine
from bench.outage.picture import draw
from bench.outage.report import Row, rows_of, targets_of
from bench.outage.trial import CONTESTANTS, DEADLINE, RATE, Stop, Trial, hold
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

# Long enough, the last ones, for the breaker's pauses between two probes to have grown.
STOPS = tuple(Stop(mode, seconds) for seconds in (0.5, 2, 5, 12) for mode in ("fast", "immediate"))
QUICK_STOPS = (Stop("fast", 2), Stop("immediate", 5))
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "pybreaker")


def main() -> int:
    parser = options.parser("bench.outage", "What clients get while the database is away, and afterwards.")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    chosen = parser.parse_args()
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    rows = rows_of(_trials(QUICK_STOPS if chosen.quick else STOPS, chosen.only))
    targets = targets_of(rows)
    answer = {
        "question": "What do clients get while the database is away, and how soon is it used again?",
        "machine": asdict(machine),
        "plan": {"rate": RATE, "deadline": DEADLINE},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "outage.json", answer)
    draw(rows, machine.caption(), chosen.out / "outage.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _trials(stops: tuple[Stop, ...], only: list[str]) -> list[Trial]:
    trials = []
    for contestant in CONTESTANTS:
        if contestant.name not in only:
            continue
        print(f"{contestant.name}, {len(stops)} outages", file=sys.stderr)
        with throwaway_postgres() as postgres:
            trials.append(hold(contestant, stops, postgres))
    return trials


def _table(rows: list[Row]) -> str:
    head = ("", "stop", "away s", "slow until s", "during p50 ms", "p99", "first success s", "last failure s",
            "served in 1st s", "afterwards", "broken")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    return [
        row.contestant,
        row.mode,
        f"{row.away:.1f}",
        f"{row.slow_until:.2f}",
        "-" if row.refused_p50_ms is None else f"{row.refused_p50_ms:.1f}",
        "-" if row.refused_p99_ms is None else f"{row.refused_p99_ms:.1f}",
        "never" if row.first_success is None else f"{row.first_success:.2f}",
        f"{row.last_failure:.2f}",
        f"{row.first_second:.1%}",
        f"{row.afterwards:.1%}",
        str(row.broken),
    ]


if __name__ == "__main__":
    sys.exit(main())
