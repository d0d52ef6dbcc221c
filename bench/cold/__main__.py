"""`python -m bench.cold`: what a start costs until the first probe is answered."""

from __future__ import annotations

import compileall
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import lifeguard

from bench import options, results
from bench.cold.starts import Contestant, contestants, start
from bench.machine import describe_machine
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import Target, at_most, verdicts

ROUNDS, QUICK_ROUNDS = 31, 7
MOST = 1.25
"""Of the imports' processor time: the promise of the serverless profile."""
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg", "pydantic", "pydantic-settings", "structlog")


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds; `times` is of the quotients within each round."""

    contestant: str
    cpu_ms: float
    lowest_ms: float
    times: float


def main() -> int:
    chosen = options.parser(
        "bench.cold", "What a start costs until the first probe is answered."
    ).parse_args()
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    for code in (Path("app"), Path(str(lifeguard.__file__)).parent):
        compileall.compile_dir(code, quiet=1)
    with throwaway_postgres() as postgres:
        dsn = postgres.ensure_database("ledger")
        subprocess.run(
            [sys.executable, "-m", "app", "migrate"],
            env={**os.environ, "DATABASE_URL": dsn, "LOG_LEVEL": "error"},
            check=True,
        )
        rows = _measured(contestants(dsn), QUICK_ROUNDS if chosen.quick else ROUNDS)
    targets = _targets(rows)
    answer = {
        "question": "What does a start cost, in processor time, until the first byte of /healthz?",
        "machine": asdict(machine),
        "plan": {"rounds": QUICK_ROUNDS if chosen.quick else ROUNDS},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "cold.json", answer)
    print("\n\n".join((machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _measured(asked: tuple[Contestant, ...], rounds: int) -> list[Row]:
    """They take turns, and each round begins with another one. A first start of each fills the file cache."""
    for contestant in asked:
        start(contestant)
    found: dict[str, list[float]] = {contestant.name: [] for contestant in asked}
    for number in range(rounds):
        first = number % len(asked)
        for contestant in (*asked[first:], *asked[:first]):
            found[contestant.name].append(start(contestant))
    floor = found[asked[0].name]
    return [
        Row(
            name,
            cpu_ms=1000 * median(seconds),
            lowest_ms=1000 * min(seconds),
            times=median(one / imports for one, imports in zip(seconds, floor, strict=True)),
        )
        for name, seconds in found.items()
    ]


def _targets(rows: list[Row]) -> list[Target]:
    promise = "processor time of a start, in that of the imports"
    return [
        at_most(MOST, promise, row.contestant, row.times) for row in rows if "Lifeguard" in row.contestant
    ]


def _table(rows: list[Row]) -> str:
    head = ("", "cpu ms", "lowest", "x imports")
    return text_table(
        head,
        [(row.contestant, f"{row.cpu_ms:.0f}", f"{row.lowest_ms:.0f}", f"{row.times:.2f}") for row in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
