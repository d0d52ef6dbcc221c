"""The dashboard as a whole: its rows, its variables, and what it marks in time."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.grafana.panels import POSTGRES, PROMETHEUS, Json, laid_out
from deploy.grafana.rows import ROWS, SERVICE

_LABEL_VALUES = 1  # of Grafana's kinds of variable queries

RULES = Path(__file__).parents[1] / "prometheus/rules"


def dashboard() -> Json:
    """Give the whole dashboard as Grafana reads it."""
    rules = "".join(path.read_text("utf-8") for path in sorted(RULES.glob("*.yml")))
    runbooks = dict(re.findall(r"- alert: (\w+).*?runbook_url: (\S+)", rules, re.DOTALL))
    return {
        "uid": "lifeguard",
        "title": "Lifeguard",
        "description": "A service and its pool. Made by `python -m deploy.grafana`; change it there.",
        "tags": ["lifeguard"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": _annotations()},
        "panels": list(laid_out(ROWS, runbooks)),
    }


def _variables() -> list[Json]:
    return [
        {"type": "datasource", "name": "prometheus", "label": "Prometheus", "query": PROMETHEUS["type"]},
        {"type": "datasource", "name": "postgres", "label": "PostgreSQL", "query": POSTGRES["type"]},
        _values_of("job", "app_ready", ""),
        _values_of("instance", "app_ready", '{job="$job"}', several=True),
        _values_of("pool", "db_client_connection_max", '{job="$job"}', several=True),
    ]


def _values_of(name: str, metric: str, selector: str, *, several: bool = False) -> Json:
    label = "db_client_connection_pool_name" if name == "pool" else name
    query = f"label_values({metric}{selector}, {label})"
    variable: Json = {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": PROMETHEUS,
        "query": {"qryType": _LABEL_VALUES, "query": query, "refId": "variable"},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": several,
        "includeAll": several,
    }
    if several:
        variable["allValue"] = ".+"
        variable["current"] = {"text": "All", "value": "$__all"}
    return variable


def _annotations() -> list[Json]:
    return [
        {
            **_annotation("Alerts", "red", 'ALERTS{alertname=~"Lifeguard.+", alertstate="firing"}'),
            "titleFormat": "{{alertname}}",
            "textFormat": "{{instance}} {{db_client_connection_pool_name}}",
            "tagKeys": "severity",
        },
        {
            **_annotation("Starts", "blue", f"process_start_time_seconds{SERVICE} * 1000"),
            "titleFormat": "started",
            "textFormat": "{{instance}}",
            "useValueForTime": True,
        },
    ]


def _annotation(name: str, color: str, expression: str) -> Json:
    target = {"refId": "Anno", "expr": expression, "interval": "4s", "range": True}
    return {"name": name, "datasource": PROMETHEUS, "enable": True, "iconColor": color, "target": target}
