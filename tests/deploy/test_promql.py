"""No query asks for a metric or a label that does not exist."""

import re
from collections.abc import Iterator

from tests.deploy.promql import panels, rules, runbooks
from tests.inside import service, settings_for

OUR_METRICS = re.compile(r"\b(?:http|db|app|process|event_loop|target|lifeguard)[_:][\w:]+")
GIVEN_BY_PROMETHEUS = {"job", "instance", "namespace"}
LABELS_OF_A_REPLICA = {"standing"}
ONLY_WITH_A_REPLICA = {"db_replica_lag_seconds", "db_reads_total", "db_replica_standing"}
EXPRESSIONS = {
    **{rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()},
    **panels("expr"),
    **runbooks("promql"),
}


def metrics(text: str) -> Iterator[str]:
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        yield from (
            (f"{name}_{part}" for part in ("bucket", "count", "sum")) if kind == "histogram" else (name,)
        )


def labels(expression: str) -> set[str]:
    """In matchers, and in what follows `by` and the like."""
    lists = re.findall(r"\b(?:by|without|on|ignoring) *\(([^)]*)\)", expression)
    return set(re.findall(r'(\w+) *(?:=|!)~?=? *"', expression)) | set(re.findall(r"\w+", " ".join(lists)))


async def test_queries_ask_for_what_there_is(database_url: str) -> None:
    async with service(settings_for(database_url)) as running:
        await running.client.get("/items")
        text = (await running.client.get("/metrics")).text
    known_labels = set(re.findall(r'(\w+)="', text)) | GIVEN_BY_PROMETHEUS | LABELS_OF_A_REPLICA
    known = set(metrics(text)) | known_labels | {rule["record"] for rule in rules() if "record" in rule}
    known |= ONLY_WITH_A_REPLICA
    ours = {name: text for name, text in EXPRESSIONS.items() if "haproxy" not in text}
    for name, expression in ours.items():
        unquoted = re.sub(r'"[^"]*"', '""', expression)
        assert set(OUR_METRICS.findall(unquoted)) <= known, name
        assert labels(expression) <= known_labels, name
