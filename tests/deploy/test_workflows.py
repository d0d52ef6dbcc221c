"""CI runs what anybody can run, with actions that nobody can exchange."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPTS = sorted((ROOT / ".ci").iterdir())
MAKEFILES = (ROOT / "Makefile", *ROOT.glob("template/*.mk"))
TARGETS = set(re.findall(r"^([\w.-]+):", "".join(path.read_text() for path in MAKEFILES), re.MULTILINE))

each_workflow = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)


def jobs_of(workflow: Path) -> dict[str, Any]:
    jobs: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return jobs


@each_workflow
def test_actions_are_pinned_to_commits_and_say_which_version(workflow: Path) -> None:
    uses = re.findall(r"uses: (.*)", workflow.read_text())
    assert uses
    assert [line for line in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


@each_workflow
def test_jobs_have_an_end_and_the_rights_they_name(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {}
    for job in jobs_of(workflow).values():
        assert job["timeout-minutes"] <= 60
        assert job["permissions"]


@pytest.mark.parametrize("script", [*WORKFLOWS, *SCRIPTS], ids=lambda path: path.name)
def test_what_is_called_exists(script: Path) -> None:
    text = script.read_text()
    assert set(re.findall(r"(?:run:|step|&&) make ([a-z-]+)", text)) <= TARGETS
    assert all((ROOT / path).exists() for path in re.findall(r"(?:^|\s)(\.ci/[\w-]+)", text))


def test_the_suite_runs_on_every_python_from_the_oldest_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = jobs_of(ROOT / ".github" / "workflows" / "ci.yml")["suite"]["strategy"]["matrix"]["python"]
    minors = [int(version.removeprefix("3.")) for version in versions]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert project["requires-python"] == f">={versions[0]}"
