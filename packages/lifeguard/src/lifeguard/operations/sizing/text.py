"""The advice for people, for programs, and as lines for the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from lifeguard.operations.sizing.advice import MEGABYTES, Advice
from lifeguard.operations.sizing.observed import Observed


def as_json(advice: Advice, observed: Observed | None = None) -> str:
    """Everything that is known of it."""
    told: dict[str, Any] = {  # Any: JSON
        name: value for name, value in _fields(advice).items() if name != "asked"
    }
    measured = None
    if observed is not None:
        measured = {
            **_fields(observed),
            "lanes": [lane.model_dump() for lane in observed.lanes],
            "in_use": observed.in_use,
            "full": observed.full,
        }
    return json.dumps(
        {
            "works": advice.works,
            "load": advice.load,
            **told,
            "instances": advice.asked.instances,
            "processes": advice.asked.processes,
            "capacity": advice.capacity,
            "at_server": advice.at_server,
            "available": advice.asked.available,
            "comfortable": advice.asked.comfortable,
            "megabytes": advice.megabytes,
            "longest_hold_ms": advice.longest_hold_ms,
            "can_deadlock": advice.can_deadlock,
            "asked": advice.asked.model_dump(),
            "measured": measured,
            "environment": environment(advice),
        },
        indent=2,
    )


def _fields(of: Advice | Observed) -> dict[str, Any]:  # Any: JSON
    return asdict(of)


def environment(advice: Advice) -> dict[str, str]:
    """The variables, by name."""
    values: dict[str, float | None] = {
        "POOL_INSTANCES": advice.asked.instances,
        "POOL_MAX_SIZE": advice.max_size,
        "POOL_MIN_SIZE": advice.min_size,
        "POOL_MAX_WAITING": advice.max_waiting,
        "POOL_QUEUE_TARGET": advice.queue_target,
        "POOL_HEADROOM": advice.asked.headroom,
    }
    return {name: f"{value:g}" for name, value in values.items() if value is not None}


def as_environment(advice: Advice, _: Observed | None = None) -> str:
    """Lines to paste."""
    lines = [f"{name}={value}" for name, value in environment(advice).items()]
    if advice.pooler is not None:
        lines.append(f"# through a pooler: {_of_pooler(advice)}")
    return "\n".join(lines)


def as_text(advice: Advice, observed: Observed | None = None) -> str:
    """Each part of the advice with its reasons."""
    lines = [*(_measured(observed) if observed else ())]
    lines += _server(advice)
    lines += _load(advice)
    lines += _processes(advice)
    lines += _pool(advice, observed)
    lines += _at_server(advice)
    lines += _verdict(advice, observed)
    topic_width = max(len(topic) for topic, _ in lines) + 3
    return "\n".join(f"{topic:<{topic_width}}{text}" for topic, text in lines)


def _plain(number: float | None, digits: int = 4) -> str:
    """It with so many digits, and never as 1e+04."""
    return "?" if number is None else f"{number:.{digits}g}" if number < 10**digits - 0.5 else f"{number:.0f}"


Lines = Iterator[tuple[str, str]]
"""What each is about, where it is not what the one before is about, and what is said."""


def _measured(observed: Observed) -> Lines:
    when = f"in {observed.seconds:g} s" if observed.seconds else "since the process began"
    yield (
        "measured",
        f"pool {observed.pool}, {when}: {_plain(observed.rate)} borrowed a second, kept"
        f" {observed.hold * 1000:.3g} ms, so {observed.in_use:.2g} of {observed.max_size} in use",
    )
    p99 = "above all buckets" if observed.wait_p99 is None else f"p99 within {observed.wait_p99 * 1000:g} ms"
    yield "", f"waited for {observed.wait * 1000:.3g} ms, {p99}; {observed.shed} refused since it began"
    for lane in observed.lanes:
        ceiling = "" if lane.at_most is None else f" of at most {lane.at_most}"
        shed = sum(lane.shed.values())
        yield (
            "",
            f"lane {lane.name}: {lane.used}{ceiling} in use, {lane.waiting} waiting, {shed} refused",
        )
    if observed.full:
        yield (
            "",
            "the pool was full: this is what it let through, and the time includes waits inside the server;"
            " say --rps and --hold-ms",
        )


def _server(advice: Advice) -> Lines:
    asked = advice.asked
    of_share = "" if asked.share == 1 else f", {asked.share:g} of it for this service"
    if asked.cores is not None and advice.at_once is not None:
        yield (
            "server works at",
            f"{asked.cores} cores x 2 + {asked.disks} disks = {asked.cores * 2 + asked.disks} connections"
            f" at once{of_share}",
        )
        if asked.idle_ms:
            yield (
                "",
                f"for {asked.idle_ms:g} of {asked.hold_ms:g} ms it waits for the service:"
                f" {_plain(advice.at_once)} in use keep it as busy",
            )
    yield (
        "server has",
        f"max_connections {asked.max_connections} - {asked.reserved} reserved ="
        f" {asked.max_connections - asked.reserved}{of_share}; POOL_HEADROOM={asked.headroom:g} leaves"
        f" {asked.comfortable} to the pools",
    )


def _load(advice: Advice) -> Lines:
    asked = advice.asked
    if advice.in_use is None or advice.needed is None:
        return
    yield (
        "load",
        f"{_plain(asked.rps)} a second x {_plain(asked.hold_ms)} ms = {_plain(advice.in_use, 3)} in use"
        f" on average (Little's law); / {asked.headroom:g} = {advice.needed} with headroom",
    )


def _processes(advice: Advice) -> Lines:
    asked = advice.asked
    yield (
        "processes",
        f"{asked.replicas} (replicas) x {asked.workers} (workers) = {asked.processes};"
        f" {asked.instances} while a deploy rolls (--surge {asked.surging})",
    )


def _pool(advice: Advice, observed: Observed | None) -> Lines:
    asked = advice.asked
    now = f" (now {observed.max_size})" if observed else ""
    yield "each pool", f"POOL_MAX_SIZE={advice.max_size}{now}: {_reason(advice)}"
    if asked.borrows > 1:
        yield (
            "",
            f"{asked.tasks} tasks x ({asked.borrows} - 1) + 1 = {advice.deadlock_bound} at least, or they can"
            " wait for each other for ever",
        )
    reason = (
        "nothing stays open while nobody asks"
        if asked.scale_to_zero
        else "open before somebody asks"
        if advice.in_use is None
        else "what the load uses on average stays open"
    )
    now = f" (now {observed.min_size})" if observed else ""
    yield "", f"POOL_MIN_SIZE={advice.min_size}{now}: {reason}"
    if advice.max_waiting is not None:
        yield (
            "",
            f"POOL_MAX_WAITING={advice.max_waiting}: what it serves in POOL_ACQUIRE_TIMEOUT, 1000 at most",
        )
        yield "", f"POOL_QUEUE_TARGET={advice.queue_target:g}: no less than the hold time"


def _reason(advice: Advice) -> str:
    processes = advice.asked.processes
    more = "more would be a queue inside the server"
    return {
        "load": f"{advice.total} for the load with headroom, / {processes}",
        "server": f"{advice.total} of what the server does at once, / {processes}; {more}",
        "tasks": "all that its tasks can borrow at once",
        "deadlock": "the smallest without deadlock",
        "two": "so that one slow statement does not stop a process",
        "fair share": f"what the server has for each of {advice.asked.instances}, while a deploy rolls",
        "pooler": "no more than the pooler has, so that the queue is here, where it sheds",
    }[advice.why]


def _at_server(advice: Advice) -> Lines:
    asked = advice.asked
    low, high = advice.megabytes
    memory = f"{low}-{high} MB of its memory, {MEGABYTES[0]}-{MEGABYTES[1]} each"
    if advice.pooler is None:
        each = f"({advice.max_size} + 1 for the lag of standbys)" if asked.standbys else f"{advice.max_size}"
        yield (
            "at the server",
            f"{asked.instances} x {each} = {advice.at_server} of {asked.comfortable}; {memory}",
        )
        yield "pooler", "none is due"
        return
    yield "at the server", f"{advice.at_server} of {asked.comfortable}; {memory}"
    yield (
        "pooler",
        f"due: {asked.instances} processes need {advice.least} each at least, and the server has"
        f" {max(0, advice.fair_share)} for each",
    )
    yield "", f"in transaction mode: {_of_pooler(advice)}"
    yield "", f"or max_connections={advice.pooler.instead}, if the server has the memory"


def _of_pooler(advice: Advice) -> str:
    assert advice.pooler is not None
    sizes = advice.pooler
    return (
        f"default_pool_size={sizes.default_pool_size} reserve_pool_size={sizes.reserve_pool_size}"
        f" max_client_conn={sizes.max_client_conn}"
    )


def _verdict(advice: Advice, observed: Observed | None) -> Lines:
    if advice.load == "carried":
        yield (
            "verdict",
            f"carried: {_plain(advice.in_use, 3)} of {_plain(advice.capacity)} that can be in use",
        )
    elif advice.load == "tight":
        yield (
            "verdict",
            f"tight: {_plain(advice.in_use, 3)} of {_plain(advice.capacity)} that can be in use, without"
            " headroom for loads that come unevenly",
        )
    elif advice.load == "too much":
        yield from _too_much(advice)
        if observed is not None and observed.in_use > advice.capacity:
            yield (
                "",
                "it was measured all the same: they wait inside the server. For processors? Then a smaller"
                " pool makes the hold time shorter. For disks? Then --disks is more",
            )
    if advice.can_deadlock:
        yield (
            "deadlock",
            f"possible: tasks that hold {advice.asked.borrows} connections need a larger pool than there can"
            " be; pass the first one on",
        )


def _too_much(advice: Advice) -> Lines:
    asked = advice.asked
    assert asked.rps is not None
    assert asked.hold_ms is not None
    assert advice.longest_hold_ms is not None
    limit = "works at" if advice.at_once is not None and advice.at_once <= asked.comfortable else "has"
    yield (
        "verdict",
        f"TOO MUCH: {_plain(advice.in_use)} in use on average, and no more than {_plain(advice.capacity)}"
        f" can be (what the server {limit})",
    )
    rate = advice.capacity * 1000 / asked.hold_ms
    yield (
        "",
        f"a larger pool does not help: the hold time must go below {_plain(advice.longest_hold_ms, 3)} ms,"
        f" or the load below {_plain(rate)} a second",
    )
