"""The dashboard fits on the screen, and PostgreSQL answers its questions."""

import json
from itertools import combinations
from typing import Any

from tests.deploy.promql import DASHBOARD, panels, runbooks
from tests.inside import service, settings_for
from tests.secured import SecuredServer


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_no_panel_lies_on_another_and_each_has_a_description() -> None:
    made: list[Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    places = [panel["gridPos"] for panel in made]
    assert not [pair for pair in combinations(places, 2) if overlap(*pair)]
    assert max(place["x"] + place["w"] for place in places) <= 24
    assert len({panel["id"] for panel in made}) == len(made)
    assert [panel["title"] for panel in made if panel["type"] != "row" and not panel["description"]] == []


async def test_the_monitoring_role_gets_answers_about_the_services_sessions(secured: SecuredServer) -> None:
    async with (
        service(settings_for(secured.dsn("app"))) as running,
        running.state["database"].transaction(),
        secured.connect("monitor") as monitor,
    ):
        for name, text in (panels("rawSql") | runbooks("sql")).items():
            assert await monitor.fetch(text), name
        rows = await monitor.fetch(panels("rawSql")["Sessions by application A"])
    assert ("under-test", "idle in transaction") in {(row["application"], row["state"]) for row in rows}
