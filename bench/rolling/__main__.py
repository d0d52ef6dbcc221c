"""`python -m bench.rolling`: what rolling restarts behind HAProxy cost those who use the service."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import options, results
from bench.machine import describe_machine
from bench.rolling.cluster import CHECK_INTERVAL, haproxy_version
from bench.rolling.picture import draw
from bench.rolling.report import Row, row_of, targets_of
from bench.rolling.trial import CLIENTS, DRAIN, DRAIN_DELAY, KILL, NO_DELAY, RATE, hold
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

RESTARTS, QUICK_RESTARTS = 100, 5
CONTROL_RESTARTS, QUICK_CONTROL_RESTARTS = 5, 2
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg")
PLAN = {"clients": CLIENTS, "rate": RATE, "drain_delay": DRAIN_DELAY, "check_interval": CHECK_INTERVAL}


def main() -> int:
    parser = options.parser("bench.rolling", "What rolling restarts cost those who use the service.")
    parser.add_argument("--restarts", type=int, help=f"rolling restarts, of two replicas each; {RESTARTS}")
    chosen = parser.parse_args()
    balancer = haproxy_version()
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    restarts = chosen.restarts or (QUICK_RESTARTS if chosen.quick else RESTARTS)
    controls = QUICK_CONTROL_RESTARTS if chosen.quick else CONTROL_RESTARTS
    with throwaway_postgres() as postgres:
        rows = [
            row_of(hold(manner, controls if manner.control else restarts, postgres))
            for manner in (DRAIN, NO_DELAY, KILL)
        ]
    targets = targets_of(rows)
    answer = {
        "question": "What does a rolling restart cost those who are using the service?",
        "machine": asdict(machine),
        "plan": {"haproxy": balancer, **PLAN},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    caption = f"{machine.caption()}; HAProxy {balancer}"
    results.write_json(chosen.out / "rolling.json", answer)
    draw(rows, caption, chosen.out / "rolling.svg")
    print("\n\n".join((caption, _table(rows), verdicts(targets), f"written to {chosen.out}")))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _table(rows: Sequence[Row]) -> str:
    head = ("", "restarts", "requests", "failed", "resets", "p50 ms", "p99", "longest",
            "clients late", "transfers", "book faults", "exits not 0")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    latencies = (row.p50_ms, row.p99_ms, row.longest_ms, row.clients_late_ms)
    return [
        row.manner,
        *(str(count) for count in (row.restarts, row.requests, row.failed, row.resets)),
        *(f"{latency:.1f}" for latency in latencies),
        *(str(count) for count in (row.acknowledged, row.book_faults, row.failed_exits)),
    ]


if __name__ == "__main__":
    sys.exit(main())
