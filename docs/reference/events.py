"""Each event of the log: what the code calls its loggers with, and what the engine says each one means."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lifeguard import pool
from lifeguard.observability import event_texts
from lifeguard.pool import events as pool_events

from docs.reference.tables import ROOT, made, table

ENGINE = Path(pool.__file__).parents[1]
LEVELS = ("debug", "info", "warning", "error")
REPORTING = frozenset((*LEVELS, "exception", "log", "report", "_report"))
"""Methods that write an event: of structlog's loggers, and of the pool's reporter."""

INTRODUCTION = """\
One event is one line: JSON in production and wherever standard output is no terminal (`LOG_FORMAT`),
columns otherwise. Lines of a request carry its `request_id`, the one that the client got as `X-Request-ID`
and that `pg_stat_activity.application_name` shows during its transactions. What goes on in the background
(connections that are opened, checked and closed, the breaker's probes) carries none, whoever set it off.
Secrets are taken out of every line."""
POOL = """\
Each has the pool's numbers at that moment: `size`, `idle`, `used`, `validating`, `returning`, `opening`,
`closing`, `waiting`, `max_size`. Seconds are rounded to four decimals. Those about a connection have its
`backend_pid` and `client_address` (`host:port` of the service's end), and what the server refused has its
`sqlstate`. With `%p`, `%r` and `%e` in the server's `log_line_prefix` that is enough to find the session in
its log."""


class Written(NamedTuple):
    """A place in the code that writes an event."""

    name: str
    level: str | None
    """None where it is decided at run time."""
    fields: tuple[str, ...]


class Undescribed(Exception):
    """The engine writes an event that it says nothing of, or says something of one that it does not write."""


COLUMNS = ("event", "level", "means, and what to do")


def page() -> str:
    check(list(written(ENGINE)), {**pool_events.EVENTS, **event_texts.EVENTS})
    return made(
        "Log events",
        INTRODUCTION,
        table("The pool's events", COLUMNS, _rows(pool_events.EVENTS), POOL),
        table("The service's events", COLUMNS, _rows(event_texts.EVENTS)),
    )


def own() -> list[str]:
    """What the service's code writes, with the fields that it names."""
    places = {place.name: place for place in written(ROOT / "app")}
    rows = [
        (f"`{place.name}`", place.level or "", ", ".join(f"`{field}`" for field in place.fields))
        for place in places.values()
    ]
    return [table("Its log events", ("event", "level", "fields"), rows)]


def check(places: list[Written], described: Mapping[str, tuple[str, str]]) -> None:
    """Raise Undescribed unless each event has its meaning, and the levels that it is written with."""
    names = {place.name for place in places}
    if missing := names - described.keys():
        raise Undescribed(f"no meaning in pool/events.py or observability/event_texts.py: {sorted(missing)}")
    if gone := described.keys() - names:
        raise Undescribed(f"described, and written nowhere: {sorted(gone)}")
    for place in places:
        if place.level and place.level not in described[place.name][0]:
            raise Undescribed(f"{place.name} is written with the level {place.level}")


def written(package: Path) -> Iterator[Written]:
    """Yield each place below `package` that writes an event."""
    for path in sorted(package.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                yield from _events(call, call.func.attr)


def _events(call: ast.Call, method: str) -> Iterator[Written]:
    if method not in REPORTING:
        return
    words = [argument.value for argument in call.args[:2] if isinstance(argument, ast.Constant)]
    level = next((word for word in (*words, method) if word in LEVELS), None)
    for word in words:
        if isinstance(word, str) and word not in LEVELS and re.fullmatch(r"[a-z]+(_[a-z]+)*", word):
            yield Written(word, level, tuple(field.arg for field in call.keywords if field.arg))


def _rows(described: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for name, (levels, meaning) in described.items():
        yield f"`{name}`", levels, meaning
