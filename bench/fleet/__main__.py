"""`python -m bench.fleet`: what a server sees of a thousand processes, in virtual time."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from bench import options, results
from bench.fleet.picture import draw
from bench.fleet.processes import MINIMUM, Naive
from bench.fleet.report import HEAD, cells, targets_of
from bench.fleet.scenes import (
    CONTESTANTS,
    DEPLOY,
    RESTART,
    ROOM_EACH,
    SCALE_OUT,
    Outcome,
    Scene,
    deploy,
    play,
    restart,
    scale_out,
)
from bench.fleet.server import CORES, LOGIN, ROUND_TRIP
from bench.machine import describe_machine
from bench.table import text_table
from bench.targets import verdicts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

THOUSAND, HUNDRED = 1000, 100
SMALL_SERVER = 100
"""max_connections."""
SEED = 1


@dataclass(frozen=True, slots=True)
class Plan:
    scene: str
    max_connections: int
    happens: Callable[[Scene], Awaitable[None]]


def plans(*, quick: bool) -> list[Plan]:
    aways = (3.0,) if quick else (3.0, 30.0)
    thousand = [
        Plan(
            f"{RESTART}, {away:.0f} s away",
            THOUSAND * ROOM_EACH,
            partial(restart, processes=THOUSAND, away=away),
        )
        for away in aways
    ]
    return [
        *thousand,
        Plan(DEPLOY, HUNDRED * ROOM_EACH, partial(deploy, processes=HUNDRED)),
        Plan(SCALE_OUT, SMALL_SERVER, partial(scale_out, processes=HUNDRED)),
    ]


def main() -> int:
    chosen = options.parser("bench.fleet", "What a server sees of many processes.").parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    machine = describe_machine(event_loop="virtual", packages=("asyncpg",))
    outcomes: list[Outcome] = []
    for plan in plans(quick=chosen.quick):
        for kind in CONTESTANTS:
            print(f"{plan.scene}: {kind.name}", file=sys.stderr)
            outcomes.append(play(plan.scene, kind, plan.max_connections, plan.happens, SEED))
    targets = targets_of(outcomes)
    answer = {
        "question": "What does a server see of a thousand processes, and how soon are all of them served?",
        "machine": asdict(machine),
        "plan": {
            "connections_each": MINIMUM,
            "login_seconds": LOGIN,
            "cores": CORES,
            "round_trip": ROUND_TRIP,
            "naive_pauses": [Naive.FIRST_PAUSE, Naive.LONGEST_PAUSE],
            "seed": SEED,
        },
        "rows": [asdict(one) for one in outcomes],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "fleet.json", answer)
    draw(outcomes, "Virtual time; the engine's own pools and decisions.", chosen.out / "fleet.svg")
    table = text_table(HEAD, [cells(one) for one in outcomes])
    print("\n\n".join((table, verdicts(targets), f"written to {chosen.out}")))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


if __name__ == "__main__":
    sys.exit(main())
