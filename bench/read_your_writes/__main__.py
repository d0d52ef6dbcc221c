"""`python -m bench.read_your_writes`: reads with tokens, on a standby that is a second behind."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass

import uvloop

from bench import options, results
from bench.machine import describe_machine
from bench.quantile import quantile
from bench.read_your_writes.picture import draw
from bench.read_your_writes.trial import CLIENTS, DELAY, READS_OF_A_WRITE, SPREAD, Seen, cost, look, pair
from bench.table import text_table
from bench.targets import Target, at_most, verdicts

READS, QUICK_READS = 100_000, 10_000
TRANSACTIONS, QUICK_TRANSACTIONS = 2000, 400
TOGETHER = (1, 10)
PACKAGES = ("asyncpg", "uvloop")


@dataclass(frozen=True, slots=True)
class Row:
    """What became of the reads."""

    reads_with: str
    reads: int
    refused: int
    """Were not answered."""
    older: int
    """Did not see the write."""
    replica: float
    """Share that the replica has served."""
    waited: float
    """Share that it has served after a wait."""
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of a transaction with one UPDATE."""

    together: int
    without_token: float
    with_token: float


def main() -> int:
    chosen = options.parser(
        "bench.read_your_writes", "Whether reads see the write whose token they have."
    ).parse_args()
    machine = describe_machine(event_loop="uvloop", packages=PACKAGES)
    rows, costs = uvloop.run(_measured(quick=chosen.quick))
    targets = _targets(rows)
    answer = {
        "question": "Does a read with the token of a write ever miss that write, and what does that cost?",
        "machine": asdict(machine),
        "plan": {"delay": DELAY, "clients": CLIENTS, "reads_of_a_write": READS_OF_A_WRITE, "spread": SPREAD},
        "rows": [asdict(row) for row in rows],
        "cost": [asdict(one) for one in costs],
        "targets": [asdict(target) for target in targets],
    }
    results.write_json(chosen.out / "read_your_writes.json", answer)
    draw(rows, costs, machine.caption(), chosen.out / "read_your_writes.svg")
    parts = (
        machine.caption(),
        _table(rows),
        _cost_table(costs),
        verdicts(targets),
        f"written to {chosen.out}",
    )
    print("\n\n".join(parts))
    return 1 if chosen.check and not all(target.met for target in targets) else 0


async def _measured(*, quick: bool) -> tuple[list[Row], list[Cost]]:
    reads = QUICK_READS if quick else READS
    async with pair() as servers:
        print(f"{reads} reads with tokens", file=sys.stderr)
        with_tokens = await look(servers, reads)
        print(f"{QUICK_READS} reads without", file=sys.stderr)
        without = await look(servers, QUICK_READS, with_tokens=False)
        rows = [_row("a token", with_tokens), _row("none", without)]
        number = QUICK_TRANSACTIONS if quick else TRANSACTIONS
        costs = [Cost(together, *await cost(servers, number, together)) for together in TOGETHER]
    return rows, costs


def _row(reads_with: str, seen: Seen) -> Row:
    return Row(
        reads_with,
        seen.reads,
        seen.refused,
        seen.older,
        seen.to["replica"] / seen.reads,
        seen.outcomes["waited"] / seen.reads,
        quantile(sorted(seen.seconds), 0.5) * 1e3,
        quantile(sorted(seen.seconds), 0.99) * 1e3,
    )


def _targets(rows: list[Row]) -> list[Target]:
    return [at_most(0, "reads older than their token", f"{row.reads} reads", row.older) for row in rows[:1]]


def _table(rows: list[Row]) -> str:
    head = (
        "reads with",
        "reads",
        "refused",
        "older than the write",
        "by the replica",
        "after a wait",
        "p50 ms",
        "p99 ms",
    )
    return text_table(
        head,
        [
            [
                row.reads_with, str(row.reads), str(row.refused), str(row.older),
                f"{row.replica:.1%}", f"{row.waited:.1%}", f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def _cost_table(costs: list[Cost]) -> str:
    head = ("transactions at once", "µs each without a token", "with one")
    return text_table(
        head, [[str(one.together), f"{one.without_token:.0f}", f"{one.with_token:.0f}"] for one in costs]
    )


if __name__ == "__main__":
    sys.exit(main())
