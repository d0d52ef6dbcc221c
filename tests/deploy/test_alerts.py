"""Each alert has a runbook, and cases that promtool runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.promql import RULES, RUNBOOKS, rules

CASES = Path(__file__).parents[2] / "deploy/prometheus/tests"
PARTS = ("**Users**", "**Look", "**Do", "**Let it be**")
ALERTS = [rule for rule in rules() if "alert" in rule]
every_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])


def sections() -> dict[str, str]:
    """The runbooks by their headings, without what comes before the first alert's."""
    _, *pairs = re.split(r"^## (Lifeguard\w+)$", RUNBOOKS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def test_every_file_of_rules_is_read_here_and_by_prometheus() -> None:
    assert sorted(RULES) == sorted((CASES.parent / "rules").iterdir())
    (pattern,) = yaml.safe_load((CASES.parent / "prometheus.yml").read_text())["rule_files"]
    assert sorted(CASES.parent.glob(pattern)) == sorted(RULES)


@every_alert
def test_an_alert_names_who_it_is_about(alert: dict[str, Any]) -> None:
    """In its labels, or where it is about all of them by asking which they are."""
    text = "".join(alert["annotations"].values())
    assert "$labels.instance" in text or ("{{ range query" in text and ".Labels.instance" in text)


def test_haproxy_has_the_backend_and_the_exporter_that_the_rules_ask() -> None:
    configuration = (CASES.parents[1] / "haproxy/haproxy.cfg").read_text(encoding="utf-8")
    assert {"\nfrontend public\n", "\nbackend service\n"} <= set(re.findall(r"\n\w+ \w+\n", configuration))
    assert "use-service prometheus-exporter" in configuration


def test_runbooks_and_alerts_are_in_step() -> None:
    assert list(sections()) == [alert["alert"] for alert in ALERTS]


@every_alert
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"].endswith(f"docs/runbooks.md#{alert['alert'].lower()}")


@every_alert
def test_a_runbook_says_what_users_feel_where_to_look_what_to_do_and_when_not_to(
    alert: dict[str, Any],
) -> None:
    section = sections()[alert["alert"]]
    assert section.lstrip().startswith("*")  # what it means
    assert [part for part in PARTS if part not in section] == []


@every_alert
def test_promtool_is_told_when_an_alert_fires_and_when_it_does_not(alert: dict[str, Any]) -> None:
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in CASES.glob("*.yml")]
    cases = [case for file in files for case in file["tests"]]
    expected = [
        bool(case.get("exp_alerts"))
        for test in cases
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert["alert"]
    ]
    assert set(expected) == {True, False}
