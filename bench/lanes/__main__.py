"""`python -m bench.lanes`: what the others notice of a locked table, a crowd, a tenant that floods."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import options, results
from bench.lanes.picture import draw
from bench.lanes.report import Row, lines_of, rows_of, targets_of
from bench.lanes.scenes import CROWD, FLOOD, LOCK, LOCKED, PATIENT, SCENES, TENANTS, Seconds
from bench.lanes.services import ACQUIRE_TIMEOUT
from bench.lanes.trial import CONTESTANTS, Trial, hold, prepare
from bench.lanes.work import CAPACITY
from bench.machine import describe_machine
from bench.overload.trial import DEADLINE
from bench.processes import allow_many_connections
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    import argparse

_LOCKED = LOCK + 4.0  # the lock, and what is shown behind it
FULL = {LOCKED: Seconds(3, 10, _LOCKED), CROWD: Seconds(2, 5, 6), FLOOD: Seconds(4, 6, 8)}
QUICK = {LOCKED: Seconds(2, 5, _LOCKED), CROWD: Seconds(1.5, 2.5, 3), FLOOD: Seconds(3.5, 2.5, 3)}
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "psycopg-pool", "SQLAlchemy")


def main() -> int:
    chosen = _options()
    allow_many_connections()
    seconds = QUICK if chosen.quick else FULL
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    trials = _trials(chosen, seconds)
    rows, lines = rows_of(trials), lines_of(trials)
    targets = targets_of(rows)
    answer = {
        "question": "What do the others notice of one who takes too much?",
        "machine": asdict(machine),
        "plan": {
            "capacity": CAPACITY,
            "deadline": DEADLINE,
            "lock": LOCK,
            "patience beside a lock": PATIENT,
            "tenants": TENANTS,
            "acquire timeout of the peers": ACQUIRE_TIMEOUT,
            "seconds": {name: asdict(each) for name, each in seconds.items()},
        },
        "rows": [asdict(row) for row in rows],
        "lines": [asdict(line) for line in lines],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "lanes.json", answer)
    draw(rows, lines, machine.caption(), chosen.out / "lanes.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _options() -> argparse.Namespace:
    parser = options.parser("bench.lanes", "What the others notice of one who takes too much.")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    scenes = [scene.name for scene in SCENES]
    parser.add_argument("--scenes", choices=scenes, nargs="+", default=scenes, metavar="NAME")
    return parser.parse_args()


def _trials(chosen: argparse.Namespace, seconds: dict[str, Seconds]) -> list[Trial]:
    """Contestants take turns in each scene."""
    trials = []
    with throwaway_postgres() as postgres:
        prepare(postgres)
        for scene in SCENES:
            for contestant in CONTESTANTS:
                if scene.name in chosen.scenes and contestant.name in chosen.only:
                    print(f"{contestant.name}: {scene.name}", file=sys.stderr)
                    trials.append(hold(contestant, scene, seconds[scene.name], postgres))
    return trials


def _table(rows: list[Row]) -> str:
    head = ("", "scene", "who", "offered/s", "in time %", "refused", "gave up", "broken", "in time/s",
            "p50 ms", "p99", "before: in time %", "in time/s", "p99 ms", "breaker", "service cores",
            "database", "clients", "late p99 ms")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    before, during = row.before, row.during
    shares = (during.in_time, during.refused, during.gave_up, during.broken)
    return [
        row.contestant,
        row.scene,
        row.who,
        f"{during.offered:.0f}",
        *(f"{share:.2%}".removesuffix("%") for share in shares),
        f"{during.goodput:.0f}",
        *(_shown(wait) for wait in (during.p50_ms, during.p99_ms)),
        f"{before.in_time:.2%}".removesuffix("%"),
        f"{before.goodput:.0f}",
        _shown(before.p99_ms),
        "-" if row.breaker_transitions is None else str(row.breaker_transitions),
        f"{row.service_cores:.2f}",
        f"{row.database_cores:.2f}",
        f"{row.generator_cores:.2f}",
        f"{row.generator_late_p99_ms:.1f}",
    ]


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}"


if __name__ == "__main__":
    sys.exit(main())
