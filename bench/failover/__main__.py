"""`python -m bench.failover`: what restarts, switchovers and crashes of the database cost."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import options, results
from bench.failover.cluster import behind_haproxy, cluster
from bench.failover.picture import draw
from bench.failover.report import Row, row_of, targets_of
from bench.failover.trial import RATE, Plan, Trial, crashing, hold, switching
from bench.machine import describe_machine
from bench.server import throwaway_postgres
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

HAPROXY = {"haproxy": True, "haproxy keeps": False}
"""Switchovers behind one name: HAProxy, and whether it ends the sessions to a server that is marked down."""
MANNERS = ("restart", "switchover", "crash", *HAPROXY)
TIMES, QUICK_TIMES = 10, 3
AWAY = 0.7
"""Seconds between the end of a server that restarts and its start."""
PACKAGES = ("fastapi", "uvicorn", "uvloop", "asyncpg")


def main() -> int:
    parser = options.parser("bench.failover", "What restarts, switchovers and crashes of the database cost.")
    parser.add_argument("--only", choices=MANNERS, nargs="+", default=MANNERS)
    parser.add_argument("--times", type=int, help=f"events of each manner; {TIMES}")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    chosen = parser.parse_args()
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    times = chosen.times or (QUICK_TIMES if chosen.quick else TIMES)
    rows = [row_of(_trial(manner, times, chosen.rate)) for manner in chosen.only]
    targets = targets_of(rows)
    answer = {
        "question": "What do restarts, switchovers and crashes of the database cost clients?",
        "machine": asdict(machine),
        "plan": {"rate": chosen.rate, "times": times, "away": AWAY},
        "rows": [asdict(row) for row in rows],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "failover.json", answer)
    draw(rows, machine.caption(), chosen.out / "failover.svg")
    print("\n\n".join((machine.caption(), _table(rows), verdicts(targets), f"written to {chosen.out}")))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


def _trial(manner: str, times: int, rate: float) -> Trial:
    if manner == "restart":
        return _restarts(times, rate)
    with cluster() as servers, ExitStack() as stack:
        ports = None
        if manner in HAPROXY:
            ports = [stack.enter_context(behind_haproxy(servers, shuts_sessions=HAPROXY[manner]))]

        async def run() -> Trial:
            await servers.settled()
            happen = crashing(servers) if manner == "crash" else switching(servers)
            return await hold(Plan(manner, servers.dsn(ports=ports), times, happen, rate))

        return asyncio.run(run())


def _restarts(times: int, rate: float) -> Trial:
    with throwaway_postgres() as postgres:

        async def happen() -> float:
            await asyncio.to_thread(postgres.stop, "fast")
            await asyncio.sleep(AWAY)
            await asyncio.to_thread(postgres.start)
            return time.monotonic()

        plan = Plan("restart", postgres.ensure_database("ledger"), times, happen, rate)
        return asyncio.run(hold(plan))


def _table(rows: Sequence[Row]) -> str:
    head = ("", "events", "requests", "failed", "longest s", "away s", "first write s", "acknowledged",
            "lost or doubled", "load")  # fmt: skip
    return text_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> list[str]:
    return [
        row.manner,
        str(row.events),
        str(row.requests),
        " ".join([str(row.failed), *(f"({count} x {reason})" for reason, count in row.reasons.items())]),
        f"{row.longest:.2f}",
        f"{min(row.away):.1f}-{max(row.away):.1f}",
        f"{max(row.first_write):.2f}",
        str(row.acknowledged),
        str(row.lost_or_doubled),
        f"{row.load_average:.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
