"""Tables of the report about processes: what a start costs, the size of a pool, how many there may be."""

from __future__ import annotations

from bench.markdown import Row, head, line


def cold(answer: Row) -> list[str]:
    return [
        "Processor time from `exec` to the first byte of the first answer to `/healthz`; medians of"
        f" {answer['plan']['rounds']} rounds. A quotient is taken within a round.",
        "",
        *head("", "ms", "lowest", "x the imports"),
        *(
            line(
                row["contestant"], [f"{row['cpu_ms']:.0f}", f"{row['lowest_ms']:.0f}", f"{row['times']:.2f}"]
            )
            for row in answer["rows"]
        ),
    ]


def sizing(answer: Row) -> list[str]:
    plan, measured = answer["plan"], answer["measured"]
    return [
        f"{plan['clients']} tasks book transfers as fast as it goes; medians of {plan['rounds']} rounds with"
        f" {plan['seconds']:g} s for each size. The best are the {plan['best']} best of a round.",
        "",
        *head("connections", "transfers a second", "of the best"),
        *(
            line(f"{row['size']}", [f"{row['per_second']:.0f}", f"{row['of_best']:.2f}"])
            for row in answer["rows"]
        ),
        "",
        f"The knee, which is the smallest pool that books {plan['enough']:.0%} of the best, has"
        f" {answer['knee']} connections. `sizing` saw {measured['rate']:.0f} transfers a second, each with a"
        f" connection for {measured['hold_ms']:.1f} ms, and advises:",
        "",
        *head("by", "connections", "x the knee"),
        *(line(row["by"], [f"{row['size']}", f"{row['times_knee']:.2f}"]) for row in answer["advised"]),
    ]


def fleet(answer: Row) -> list[str]:
    plan = answer["plan"]
    return [
        f"In virtual time; {plan['connections_each']} connections for each process. The server has"
        f" {plan['cores']} cores, of which a login takes one for {1000 * plan['login_seconds']:g} ms; there"
        f" and back is {1000 * plan['round_trip']:g} ms.",
        "",
        *head(
            "",
            "scene",
            "processes",
            "most attempts in a second",
            "attempts",
            "refused",
            "most sessions, of so many",
            "all served after s",
            "full after s",
            "without a place",
        ),
        *(line(row["contestant"], _scene(row)) for row in answer["rows"]),
    ]


def _scene(row: Row) -> list[str]:
    return [
        row["scene"],
        *(f"{row[name]:,}" for name in ("processes", "peak", "attempts", "refused")),
        f"{row['most_sessions']:,} of {row['room']:,}",
        _after(row["all_served"]),
        _after(row["full_service"]),
        f"{row['without_place']}",
    ]


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f}"
