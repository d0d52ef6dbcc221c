"""`python -m bench.sizing`: whether `sizing` advises the pool with which the ledger books most."""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import uvloop
from lifeguard.operations.sizing import Observed, advise, read

from app.settings import Settings
from bench import options, results
from bench.machine import describe_machine
from bench.sizing.trial import CLIENTS, SIZES, Turn, demo, durable_postgres
from bench.table import text_table
from bench.targets import Target, at_most, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

ENOUGH = 0.95
"""Of what the best sizes book: the knee is the smallest that does."""
BEST = 4
"""Sizes, whose median that is."""
WITHIN = 1 / 3
PACKAGES = ("asyncpg", "fastapi", "uvloop")
MEASURED = "hold time of its own metrics"
QUIETER = 0.5
"""Of what the best sizes book: the load at which the service's metrics are read."""
USUAL_SIZE: int = Settings.model_fields["pool_max_size"].default


@dataclass(frozen=True, slots=True)
class Row:
    """One size."""

    size: int
    per_second: float
    """Median over the rounds."""
    of_best: float
    """Part of what the best sizes book in the same round; median."""


@dataclass(frozen=True, slots=True)
class Advised:
    """What `sizing` says, and by what it says so."""

    by: str
    size: int
    times_knee: float


def main() -> int:
    chosen = options.parser("bench.sizing", "Whether `sizing` finds the knee.").parse_args()
    rounds, seconds = (3, 1.0) if chosen.quick else (9, 2.0)
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    turns, observed = uvloop.run(_measured(rounds, seconds))
    rows = rows_of(turns)
    knee = next(row.size for row in rows if row.of_best >= ENOUGH)
    advised = _advised(machine.cores, observed, peak(rows), knee)
    targets = [_target(one) for one in advised if one.by == MEASURED]
    answer = {
        "question": "Is the size that `sizing` advises the one with which the ledger books most?",
        "machine": asdict(machine),
        "plan": {"rounds": rounds, "seconds": seconds, "clients": CLIENTS, "enough": ENOUGH, "best": BEST},
        "rows": [asdict(row) for row in rows],
        "knee": knee,
        "measured": {"rate": observed.rate, "hold_ms": observed.hold * 1000, "in_use": observed.in_use},
        "advised": [asdict(one) for one in advised],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "sizing.json", answer)
    parts = (machine.caption(), _table(rows), _advice_table(advised, knee), verdicts(targets),
             f"written to {chosen.out}")  # fmt: skip
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


async def _measured(rounds: int, seconds: float) -> tuple[list[Turn], Observed]:
    turns = []
    with durable_postgres() as server:
        async with demo(server) as ledger:
            for number in range(rounds):
                # Up in one round and down in the next, so that no size always has the larger tables.
                for size in SIZES if number % 2 == 0 else SIZES[::-1]:
                    turns.append(await ledger.turn(size, number, seconds))
                    print(f"round {number + 1}: {size} connections", file=sys.stderr)
            observed = await ledger.observed(QUIETER * peak(rows_of(turns)), USUAL_SIZE, 10 * seconds)
    return turns, observed


def rows_of(turns: Sequence[Turn]) -> list[Row]:
    """A ratio is taken within a round: machines are not equally fast all the time. And to the median of the
    best sizes: the best of ten is the luckiest."""
    plateau = {
        number: statistics.median(sorted(turn.per_second for turn in turns if turn.round == number)[-BEST:])
        for number in {turn.round for turn in turns}
    }
    rows = []
    for size in sorted({turn.size for turn in turns}):
        of_size = [turn for turn in turns if turn.size == size]
        per_second = statistics.median(turn.per_second for turn in of_size)
        of_best = statistics.median(turn.per_second / plateau[turn.round] for turn in of_size)
        rows.append(Row(size, per_second, of_best))
    return rows


def peak(rows: Sequence[Row]) -> float:
    """Transfers a second of the best sizes."""
    return statistics.median(sorted(row.per_second for row in rows)[-BEST:])


def _advised(cores: int, observed: Observed, rate: float, knee: int) -> list[Advised]:
    """For the peak `rate`, with the hold time of a quieter hour: at the peak waits inside the server are in
    it.
    One process, and no deploy: the bench has no second one."""
    alone = {"surge": 0}
    measured = read({**alone, "rps": rate, "hold_ms": observed.hold * 1000})
    sizes = {
        f"cores x 2 + disks: {cores} x 2 + 1": advise(read({**alone, "cores": cores})).max_size,
        MEASURED: advise(measured).max_size,
        "both": advise(measured.model_copy(update={"cores": cores})).max_size,
    }
    return [Advised(by, size, size / knee) for by, size in sizes.items()]


def _target(advised: Advised) -> Target:
    return at_most(WITHIN, "off from the knee", advised.by, abs(advised.times_knee - 1))


def _table(rows: Sequence[Row]) -> str:
    cells = [(str(row.size), f"{row.per_second:.0f}", f"{row.of_best:.3f}") for row in rows]
    return text_table(("connections", "transfers/s", "of the best"), cells)


def _advice_table(advised: Sequence[Advised], knee: int) -> str:
    cells = [(one.by, str(one.size), f"{one.times_knee:.2f}") for one in advised]
    return text_table(("sizing by", "advises", f"x knee ({knee})"), cells)


if __name__ == "__main__":
    sys.exit(main())
