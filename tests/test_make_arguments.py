"""What somebody gives `make` in a variable reaches the program as it was written, or is asked for at once."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Prints its arguments and runs nothing.
_ECHO = """#!/usr/bin/env python3
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which all is installed, with a Python that tells its arguments."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements-dev.lock").touch()
    (tmp_path / ".venv/requirements-dev.installed").touch()
    python = tmp_path / ".venv/bin/python"
    python.write_text(_ECHO)
    python.chmod(0o755)
    if (starter := ROOT / "template/starter.mk").exists():
        (tmp_path / "template").mkdir()
        shutil.copy(starter, tmp_path / "template")
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As in a shell, also where the tests run under `make test`, which hands its flags and its level on.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", *arguments],  # noqa: S607
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


AWKWARD = ("it's", "two words", "$HOME", "$(shell touch here)", "`touch here`", '"quoted"', "a;touch here")


@pytest.mark.parametrize("text", AWKWARD)
def test_it_is_one_word_whatever_is_in_it(checkout: Path, text: str) -> None:
    made = make(checkout, "feature", f"NAME={text}", f"SINGULAR={text}")
    told = json.loads(made.stdout.splitlines()[0])
    assert told == ["-m", "lifeguard.development.feature", "--singular", text, "--", text]
    if (checkout / "template").exists():
        made = make(checkout, "new", f"NAME={text}", f"DIR=/tmp/{text}", "TRACES=no")
        assert json.loads(made.stdout) == [
            "-m",
            "template.new",
            f"NAME={text}",
            f"DIR=/tmp/{text}",
            "TRACES=no",
        ]
    assert not (checkout / "here").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new"], "needs NAME"),
        (["new", "NAME=orders"], "needs DIR"),
        (["feature"], "needs NAME"),
        (["feature", "NAME= "], "needs NAME"),
    ],
)
def test_what_is_missing_is_asked_for_before_anything_is_installed(
    checkout: Path, arguments: list[str], said: str
) -> None:
    if arguments[0] == "new" and not (checkout / "template").exists():
        pytest.skip("only the starter makes services")
    (checkout / ".venv/requirements-dev.installed").unlink()
    made = make(checkout, *arguments)
    assert made.returncode == 2
    assert said in made.stderr
    assert made.stdout == ""
