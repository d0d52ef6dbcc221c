"""The tables of the report: a function for each question, from what was measured to lines of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench.markdown import Row, head, line
from bench.tables_of_processes import cold, fleet, sizing

LOADS = (1, 1.5, 3, 5, 10)
"""Of the overload that is shown, in capacities."""

SCENES = {"a thousand": "a thousand at once", "bursts": "bursts", "jitter": "jitter", "crash": "crash"}
"""Of `bench.strategies`, and what they are called."""


def http(answer: Row) -> list[str]:
    plan, few, many = answer["plan"], 16, 64
    return [
        f"One process each, on a core of its own where there are several; pools of {plan['pool_size']};"
        f" medians of {_rounds(plan)}. CPU is that of the service's process for an answer; p99 is from an"
        " open loop at half of the rate at 64 connections.",
        "",
        *head(
            "",
            f"GET/s at {few} / {many} connections",
            "µs of CPU for a GET",
            "x bare asyncpg.Pool",
            "POST/s",
            "µs for a POST",
            "x bare",
            "p99 in ms (at so many a second)",
            "s to the first answer",
            "MB then / after a turn",
        ),
        *(line(row["contestant"], _request(row)) for row in answer["rows"]),
        "",
        "Lifeguard has everything on. *No dependency*: the statement in the endpoint, the least that FastAPI"
        " and that pool can do. *The same for the user*: the instrumentator, request ids and a JSON access"
        f" log. The clients took {_span([row['clients_cores'] for row in answer['rows']])} of a core.",
        "",
        *_refusals(answer["refusals"]),
        *_memory(answer["memory"]),
    ]


def _rounds(plan: Row) -> str:
    return "one round" if plan["rounds"] == 1 else f"{plan['rounds']} rounds"


def _request(row: Row) -> list[str]:
    return [
        f"{row['reads_per_second_16']:,.0f} / {row['reads_per_second_64']:,.0f}",
        f"{row['read_us']:.0f}",
        _times(row["read_times_bare"]),
        f"{row['writes_per_second']:,.0f}",
        f"{row['write_us']:.0f}",
        _times(row["write_times_bare"]),
        f"{row['half_p99_ms']:.1f} ({row['half_rate']:,.0f})",
        f"{row['start_s']:.1f}",
        f"{row['memory_mb']:.0f} / {row['memory_after_mb']:.0f}",
    ]


def _refusals(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    return [
        *head(
            "a GET that Lifeguard refuses",
            "a second",
            "µs of CPU",
            "x a GET that it serves",
        ),
        *(
            line(
                row["manner"],
                [f"{row['per_second']:,.0f}", f"{row['refused_us']:.0f}", _times(row["times_served"])],
            )
            for row in rows
        ),
        "",
    ]


def _memory(rows: list[Row]) -> list[str]:
    if not rows:
        return []
    return [
        *head(
            "private memory in MB",
            "after so many requests: MB",
        ),
        *(
            line(
                row["contestant"],
                [
                    ", ".join(
                        f"{number:,}: {size:.1f}"
                        for number, size in zip(row["requests"], row["memory_mb"], strict=True)
                    )
                ],
            )
            for row in rows
        ),
        "",
    ]


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _span(figures: list[float]) -> str:
    return f"{min(figures):.2f} to {max(figures):.2f}"


def scale(answer: Row) -> list[str]:
    return [
        "The pool: borrow, `SELECT 1`, return. Waiters have ten connections before them; lanes are those of"
        f" 200 borrowers with twenty. HTTP: a GET by {answer['plan']['asking']} connections beside the idle"
        " ones.",
        "",
        *head(
            "",
            "how many",
            "µs of CPU for an operation",
            "operations a second",
            "KB for each",
            "MB for all",
            "MB of the server for each",
            "cores while nobody asks",
        ),
        *(line(row["what"], _number(row)) for row in answer["rows"]),
    ]


def _number(row: Row) -> list[str]:
    return [
        f"{row['number']:,}",
        f"{row['cost_us']:.0f}",
        f"{row['per_second']:,.0f}",
        _known(row["memory_kb"], 1),
        f"{row['memory_mb']:.1f}",
        _known(row["backend_mb"], 2),
        _known(row["idle_cores"], 3),
    ]


def _known(figure: float | None, digits: int) -> str:
    return "-" if figure is None else f"{figure:.{digits}f}"


def overload(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"Requests answered in time, per second. Capacity: {plan['capacity']:g} per second; clients give up"
        f" after {plan['deadline']:g} s.",
        "",
        f"| load, in capacities | {' | '.join(f'{load:g}' for load in LOADS)} |",
        f"|---{'|---' * len(LOADS)}|",
        *(
            line(name, [f"{row['goodput']:.0f}" for row in rows if row["load"] in LOADS])
            for name, rows in _by(answer["rows"], "contestant")
        ),
    ]


def lanes(answer: Row) -> list[str]:
    plan = answer["plan"]
    shown = list(dict.fromkeys((row["scene"], row["who"]) for row in answer["rows"]))
    return [
        f"Share of the requests that were answered within {plan['deadline']:g} s.",
        "",
        f"| | {' | '.join(f'{scene}: {who}' for scene, who in shown)} |",
        f"|---{'|---' * len(shown)}|",
        *(
            line(name, [_share(row["during"]["in_time"]) for row in rows])
            for name, rows in _by(answer["rows"], "contestant")
        ),
    ]


def _share(share: float) -> str:
    """With as many digits as tell it from all of them."""
    return f"{share:.1%}" if share < 0.995 else f"{share:.2%}"


def pool(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"Borrow, `SELECT 1`, return; {plan['pool_size']} connections; medians of {plan['rounds']} rounds.",
        "",
        *head(
            "",
            "µs per operation at 10 / 100 / 500 borrowers",
            "x floor, in processor time",
            "p99 wait in ms at 100 / 500",
        ),
        *(line(name, _costs(rows)) for name, rows in _by(answer["rows"], "implementation")),
    ]


def _costs(rows: list[Row]) -> list[str]:
    costs = [f"{row['us_per_operation']:.0f}" for row in rows]
    fewest = min(row["borrowers"] for row in rows)
    waits = [row["wait_p99_ms"] for row in rows if row["borrowers"] > fewest]
    waited = "-" if None in waits else " / ".join(f"{wait:.1f}" for wait in waits)
    floors = [f"{row['cpu_times_floor']:.2f}" for row in rows]
    return [" / ".join(costs), " / ".join(floors), waited]


def strategies(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"The p99 of those who were served or gave up, in ms; clients give up after {plan['deadline']:g} s."
        " In parentheses the share that was not served.",
        "",
        f"| | {' | '.join(SCENES.values())} | all | reuse | MB for a thousand |",
        f"|---{'|---' * (len(SCENES) + 3)}|",
        *(line(name, _trouble(rows)) for name, rows in _by(answer["rows"], "contestant")),
    ]


def _trouble(rows: list[Row]) -> list[str]:
    """A cell for each scene and one for all of them, which come last, then reuse and memory."""
    return [*map(served, rows), f"{rows[-1]['reuse']:.0%}", f"{rows[-1]['memory_mb']:.0f}"]


def served(row: Row) -> str:
    failed = (row["refused"] + row["gave_up"] + row["broken"]) / row["requests"]
    return f"{row['p99_ms']:.0f} ({failed:.0%})"


def outage(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"{plan['rate']:g} requests a second; the server is stopped, and is away for so long.",
        "",
        *head(
            "",
            "stop",
            "away, s",
            "slow answers until s after the stop",
            "first success, s after the return",
            "succeeded in the first second",
            "afterwards",
            "broken",
        ),
        *(line(row["contestant"], _stop(row)) for row in answer["rows"]),
    ]


def _stop(row: Row) -> list[str]:
    first = row["first_success"]
    return [
        row["mode"],
        f"{row['away']:.1f}",
        f"{row['slow_until']:.2f}",
        "never" if first is None else f"{first:.2f}",
        f"{row['first_second']:.1%}",
        f"{row['afterwards']:.1%}",
        f"{row['broken']}",
    ]


def failover(answer: Row) -> list[str]:
    return [
        f"{answer['plan']['rate']:g} requests a second, half of them transfers. Clients ask once.",
        "",
        *head(
            "",
            "events",
            "requests",
            "failed",
            "longest answer, s",
            "no server takes writes, s",
            "first write after that, s",
            "transfers acknowledged",
            "lost or doubled",
        ),
        *(line(row["manner"], _event(row)) for row in answer["rows"]),
    ]


def _event(row: Row) -> list[str]:
    return [
        f"{row['events']}",
        f"{row['requests']:,}",
        f"{row['failed']}",
        f"{row['longest']:.2f}",
        _range(row["away"]),
        _range(row["first_write"]),
        f"{row['acknowledged']:,}",
        f"{row['lost_or_doubled']}",
    ]


def _range(seconds: list[float]) -> str:
    return f"{min(seconds):.2f} - {max(seconds):.2f}" if seconds else "-"


def rolling(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"Two replicas behind HAProxy {plan['haproxy']}, {plan['rate']:g} requests a second by"
        f" {plan['clients']} clients, who ask once. *Control*: must fail, or nothing has been measured.",
        "",
        *head(
            "",
            "restarts",
            "requests",
            "failed",
            "p50 in ms",
            "p99",
            "longest",
            "transfers acknowledged",
            "faults in the books",
        ),
        *(line(_manner(row), _restart(row)) for row in answer["rows"]),
    ]


def _manner(row: Row) -> str:
    return f"{row['manner']} (control)" if row["control"] else str(row["manner"])


def _restart(row: Row) -> list[str]:
    return [
        f"{row['restarts']}",
        f"{row['requests']:,}",
        f"{row['failed']}",
        *(f"{row[name]:.0f}" for name in ("p50_ms", "p99_ms", "longest_ms")),
        f"{row['acknowledged']:,}",
        f"{row['book_faults']}",
    ]


def hostile(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"{plan['rate']} requests a second of users beside {plan['connections']} connections that attack."
        f" In time is within {plan['deadline']:g} s.",
        "",
        *head(
            "",
            "attack",
            "users served in time",
            "their p50 in ms",
            "p99",
            "p99 before the attack",
            "MB at most",
        ),
        *(line(row["contestant"], _attacked(row)) for row in answer["rows"]),
    ]


def _attacked(row: Row) -> list[str]:
    return [
        row["attack"],
        _share(row["served"]),
        *(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "quiet_p99_ms")),
        f"{row['memory_mb']:.0f}",
    ]


def read_your_writes(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"{plan['clients']} clients; the standby replays everything {plan['delay']:g} s late.",
        "",
        *head(
            "reads with",
            "reads",
            "older than the token",
            "refused",
            "by the standby",
            "that waited",
            "p50 in ms",
            "p99",
        ),
        *(line(row["reads_with"], _read(row)) for row in answer["rows"]),
        "",
        *head(
            "transactions at once",
            "µs each, without the question for a token",
            "with it",
        ),
        *(
            line(f"{row['together']}", [f"{row['without_token']:,.0f}", f"{row['with_token']:,.0f}"])
            for row in answer["cost"]
        ),
    ]


def _read(row: Row) -> list[str]:
    return [
        f"{row['reads']:,}",
        f"{row['older']}",
        f"{row['refused']}",
        _share(row["replica"]),
        _share(row["waited"]),
        f"{row['p50_ms']:.0f}",
        f"{row['p99_ms']:.0f}",
    ]


def _by(rows: list[Row], name: str) -> list[tuple[str, list[Row]]]:
    """The rows of each, in the order of their first appearance."""
    return [
        (key, [row for row in rows if row[name] == key]) for key in dict.fromkeys(row[name] for row in rows)
    ]


QUESTIONS: Mapping[str, Callable[[Row], list[str]]] = {
    "http": http,
    "pool": pool,
    "overload": overload,
    "strategies": strategies,
    "lanes": lanes,
    "scale": scale,
    "sizing": sizing,
    "outage": outage,
    "failover": failover,
    "fleet": fleet,
    "rolling": rolling,
    "cold": cold,
    "hostile": hostile,
    "read_your_writes": read_your_writes,
}
"""In the order of the report."""
