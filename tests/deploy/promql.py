"""What the rules, the dashboard and the runbooks ask of Prometheus and of PostgreSQL."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy/grafana/dashboards/service.json"
RULES = [ROOT / f"deploy/prometheus/rules/{name}.yml" for name in ("service", "haproxy")]
RUNBOOKS = ROOT / "docs/runbooks.md"
FILLED_IN = {"$job": "lifeguard", "$instance": ".+", "$pool": ".+", "$__rate_interval": "15s"}
"""As Grafana would, with all instances and pools chosen."""


def rules() -> list[dict[str, Any]]:
    """The recorded ones and the alerts, as they stand in the file."""
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES]
    return [rule for content in contents for group in content["groups"] for rule in group["rules"]]


def panels(key: Literal["expr", "legendFormat", "rawSql"]) -> dict[str, str]:
    """The panels' PromQL, legends or SQL without variables, by the panel's title and the query's letter."""
    return {name: _filled_in(text) for name, text in _targets(key)}


def _targets(key: str) -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            if key in target:
                yield f"{panel['title']} {target['refId']}", target[key]


def _filled_in(text: str) -> str:
    for variable, value in FILLED_IN.items():
        text = text.replace(variable, value)
    assert "$" not in text, text
    return text


def runbooks(language: Literal["promql", "sql"]) -> dict[str, str]:
    """The blocks of this language in the runbooks, by their place."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", RUNBOOKS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return {f"runbook query {number}": block for number, block in enumerate(blocks, 1)}
