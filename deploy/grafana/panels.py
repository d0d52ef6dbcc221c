"""Panels in Grafana's JSON (the classic dashboard schema, which every Grafana from 10 to 13 reads)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Json = dict[str, object]

PROMETHEUS: Json = {"type": "prometheus", "uid": "${prometheus}"}
POSTGRES: Json = {"type": "grafana-postgresql-datasource", "uid": "${postgres}"}

_GRID_WIDTH = 24
_HEIGHT = 8
_REFERENCES = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Query:
    """PromQL, and what its series are called: `{{label}}` is the label's value."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Sql:
    """A query whose rows are shown as they are."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel. `queries` are of one kind: all PromQL, or all SQL."""

    title: str
    description: str
    queries: tuple[Query | Sql, ...]
    kind: str = "timeseries"
    unit: str = "short"
    alert: str | None = None
    """The alert that watches the same; the description then links to its runbook."""
    warn_above: float | None = None
    """Drawn as a red line (time series) or colour (stat)."""
    stacked: bool = False
    names: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """What values are called, and their colours."""
    width: int = 8
    maximum: float | None = None


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def laid_out(rows: Iterable[Row], runbooks: Mapping[str, str]) -> Iterator[Json]:
    """Yield rows and panels with their places, from left to right and from the top down.

    `runbooks` is the address of each alert's section. KeyError for an alert that there is not.
    """
    number, x, y = 0, 0, 0
    for row in rows:
        number += 1
        if x:
            x, y = 0, y + _HEIGHT
        place = {"x": 0, "y": y, "w": _GRID_WIDTH, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": place,
        }
        y += 1
        for panel in row.panels:
            number += 1
            if x + panel.width > _GRID_WIDTH:
                x, y = 0, y + _HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": _HEIGHT}
            x += panel.width
            yield {"id": number, "gridPos": place, **_rendered(panel, runbooks)}


def _rendered(panel: Panel, runbooks: Mapping[str, str]) -> Json:
    description = panel.description
    if panel.alert:
        description += f"\n\n[Runbook: {panel.alert}]({runbooks[panel.alert]})"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": description,
        "datasource": POSTGRES if isinstance(panel.queries[0], Sql) else PROMETHEUS,
        "targets": [_target(query, of) for query, of in zip(panel.queries, _REFERENCES, strict=False)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _target(query: Query | Sql, reference: str) -> Json:
    if isinstance(query, Sql):
        return {
            "refId": reference,
            "datasource": POSTGRES,
            "editorMode": "code",
            "format": "table",
            "rawQuery": True,
            "rawSql": query.text,
        }
    return {
        "refId": reference,
        "datasource": PROMETHEUS,
        "editorMode": "code",
        "expr": query.expression,
        "legendFormat": query.legend,
        "range": True,
    }


def _defaults(panel: Panel) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.warn_above is not None:
        steps.append({"color": "red", "value": panel.warn_above})
    defaults: Json = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.names:
        options = {
            str(value): {"text": text, "color": color, "index": value}
            for value, (text, color) in panel.names.items()
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "timeseries":
        defaults["color"] = {"mode": "palette-classic"}
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off" if panel.warn_above is None else "line"},
        }
    else:
        defaults["color"] = {"mode": "thresholds"}
    return defaults


_LAST_VALUE: Json = {"calcs": ["lastNotNull"], "fields": "", "values": False}

_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _LAST_VALUE, "colorMode": "value", "graphMode": "area", "textMode": "auto"},
    "state-timeline": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.8,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    },
    "table": {"cellHeight": "sm", "showHeader": True},
}
