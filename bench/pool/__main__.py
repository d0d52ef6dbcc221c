"""`python -m bench.pool`: what borrowing a connection costs, beside the peers."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import uvloop

from bench import options, results
from bench.machine import describe_machine
from bench.pool.implementations import ALL
from bench.pool.measure import BORROWERS, FULL, POOL_SIZE, QUICK, Plan, Turn, measure
from bench.pool.picture import draw
from bench.pool.report import Report, Row
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

PACKAGES = ("asyncpg", "psycopg", "psycopg-pool", "SQLAlchemy", "uvloop")


def main() -> int:
    chosen = _options()
    plan = QUICK if chosen.quick else FULL
    plan = replace(plan, rounds=chosen.rounds or plan.rounds)
    machine = describe_machine(event_loop=chosen.loop, packages=PACKAGES)
    with throwaway_postgres() as postgres:
        turns = _run(postgres.dsn(unix=True), plan, chosen.loop)
    report = Report(turns, ALL)
    rows, targets = report.rows(), report.targets()
    answer = {
        "question": "What does borrow + SELECT 1 + return cost with a pool of ten?",
        "machine": asdict(machine),
        "plan": {"pool_size": POOL_SIZE, "rounds": plan.rounds, "seconds": plan.seconds},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "pool.json", answer)
    draw(rows, machine.caption(), chosen.out / "pool.svg")
    parts = (machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _options() -> argparse.Namespace:
    parser = options.parser("bench.pool", "What borrowing a connection costs, beside the peers.")
    parser.add_argument("--rounds", type=int, help=f"default {FULL.rounds}, quick {QUICK.rounds}")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    return parser.parse_args()


def _run(dsn: str, plan: Plan, loop: str) -> list[Turn]:
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_collect(dsn, plan))


async def _collect(dsn: str, plan: Plan) -> list[Turn]:
    turns: list[Turn] = []
    total = plan.rounds * len(ALL) * len(BORROWERS)
    async for turn in measure(dsn, ALL, plan):
        turns.append(turn)
        if sys.stderr.isatty():
            print(f"\r{len(turns)} of {total} turns", end="", file=sys.stderr, flush=True)
    return turns


def _table(rows: Sequence[Row]) -> str:
    head = ("", "borrowers", "µs/op", "x floor", "cpu µs/op", "x floor", "x no lane", "op/s",
            "wait mean ms", "p50", "p99", "max", "fairness", "op/borrower")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    return [
        row.implementation,
        str(row.borrowers),
        f"{row.us_per_operation:.1f}",
        f"{row.times_floor:.2f}",
        f"{row.cpu_us_per_operation:.1f}",
        f"{row.cpu_times_floor:.2f}",
        f"{row.cpu_times_no_lane:.3f}",
        f"{row.operations_per_second:,.0f}",
        *("-" if wait is None else f"{wait:.2f}" for wait in _waits(row)),
        f"{row.fairness:.3f}",
        f"{row.fewest:.0f}-{row.most:.0f}",
    ]


def _waits(row: Row) -> tuple[float | None, ...]:
    return row.wait_mean_ms, row.wait_p50_ms, row.wait_p99_ms, row.wait_max_ms


if __name__ == "__main__":
    sys.exit(main())
