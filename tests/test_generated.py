"""What is made from other files is up to date, and stays whole when it cannot be made."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from lifeguard.settings import env_example

from app.settings import Settings
from tests.processes import ROOT

RULES = "deploy/prometheus/rules/service.yml"


def test_the_example_of_the_environment_is_up_to_date() -> None:
    assert (ROOT / ".env.example").read_text() == env_example(Settings), "make .env.example"


@pytest.mark.parametrize("target", [".env.example", "deploy/grafana/dashboards/service.json"])
def test_a_generator_that_fails_leaves_the_file_it_was_to_replace(target: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = tmp_path / target
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text("the last one\n")
    generator = tmp_path / ".venv/bin/python"
    generator.parent.mkdir(parents=True)
    generator.write_text("#!/bin/sh\necho half; exit 1\n")
    generator.chmod(0o755)
    needed = (
        "requirements-dev.lock",
        ".venv/requirements-dev.installed",
        "packages/lifeguard/src/lifeguard/settings/settings.py",
        RULES,
    )
    for number, name in enumerate(needed):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (2_000_000_000 + number,) * 2)
    ended = subprocess.run(["make", target], cwd=tmp_path, capture_output=True, check=False)  # noqa: S607
    assert ended.returncode != 0
    assert made.read_text() == "the last one\n"
    assert not list(made.parent.glob("*.new"))


@pytest.mark.parametrize(
    ("python", "anew"),
    [("exit 1", True), ('test "$1" = -c', True), ("exit 0", False)],
    ids=["gone", "no pip", "whole"],
)
def test_an_environment_whose_making_was_interrupted_is_made_anew(
    python: str, *, anew: bool, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-dev.lock").touch()
    scripts = {
        ".venv/bin/python": python,
        "python3": 'case "$*" in *venv\\ --clear*) echo anew; exit 1; esac',
        "uv": "exit 1",
    }
    for name, line in scripts.items():
        script = tmp_path / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
    done = subprocess.run(
        ["make", f"PYTHON={tmp_path}/python3", ".venv/requirements-dev.installed"],  # noqa: S607
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ("anew" in done.stdout.splitlines()) == anew
