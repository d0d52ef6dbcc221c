"""Each route, from the OpenAPI document: what it does, and which answers it has."""

from collections.abc import Iterator
from typing import Any

from lifeguard.service import Service

from docs.reference.made import engine_alone, service
from docs.reference.tables import made, table

EVERYWHERE = ("400", "413", "500")
"""What each may answer: `problems.ANY`."""

INTRODUCTION = """\
`/docs` shows the same with schemas, and lets you try them; `/openapi.json` is the document behind it. In
production both are there only with `DOCS=true`. `HEAD` answers wherever `GET` does. Each answer carries
`X-Request-ID`; a valid one of the request is kept. `X-Request-Timeout: <seconds>` (0.01 or more) says how
long its client will wait for the database. Besides what stands here each route may answer 400, 413 and 500,
and each of its errors is one of the [problems](problems.md)."""
OPERATORS = """\
With `OPS_PORT` they are on that port and nowhere else: docs/operations.md#a-port-of-their-own. `/pool/live`
reads `/pool/live/events`."""


COLUMNS = ("route", "answers", "what it does")


def page() -> str:
    return made("Routes", INTRODUCTION, table("For operators", COLUMNS, _rows(engine_alone()), OPERATORS))


def own() -> list[str]:
    """Those of the service's features."""
    operators = set(_rows(engine_alone()))
    return [table("Its routes", COLUMNS, [row for row in _rows(service()) if row not in operators])]


def _rows(app: Service) -> Iterator[tuple[str, str, str]]:
    for path, methods in app.openapi()["paths"].items():
        for method, route in methods.items():
            yield _row(method, path, route)


def _row(method: str, path: str, route: dict[str, Any]) -> tuple[str, str, str]:
    answers = " ".join(status for status in sorted(route["responses"]) if status not in EVERYWHERE)
    return f"`{method.upper()} {path}`", answers, route.get("description") or route["summary"] + "."
