"""Settings for the situations of docs/choosing.md. A profile names what it is sized for, as in

    # sizing: --cores 8 --replicas 3 --rps 300 --hold-ms 12

and the lines below that, up to an empty one, are what `sizing` computes from it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from app.commands import cli

HERE = Path(__file__).parent
GUIDE = HERE.parents[1] / "docs/choosing.md"
PROFILES = tuple(sorted(HERE.glob("*.env")))

_COMPUTED = re.compile(r"^# sizing: (.+)\n((?:[#A-Z].*\n)*)", re.MULTILINE)
_SHOWN = r"<!-- sizing:{name} -->\n.*?<!-- /sizing:{name} -->"


class NotSized(ValueError):
    """`sizing` does not take a profile's arguments, or its load is more than can be carried."""


def arguments(profile: Path) -> str:
    """What it is sized for."""
    found = _COMPUTED.search(profile.read_text(encoding="utf-8"))
    if found is None:
        raise NotSized(f"{profile.name} does not say what it is sized for")
    return found[1]


def variables(profile: Path) -> dict[str, str]:
    """What it sets, by name."""
    lines = profile.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def with_sizes(profile: Path) -> str:
    """Its text, with what `sizing` computes now."""
    text = profile.read_text(encoding="utf-8")
    given = arguments(profile)
    return _COMPUTED.sub(lambda _: f"# sizing: {given}\n{_said(given, '--env')}", text)


def guide() -> str:
    """The text of docs/choosing.md, with what `sizing` says now."""
    text = GUIDE.read_text(encoding="utf-8")
    for profile in PROFILES:
        given = arguments(profile)
        shown = f"```console\n$ python -m app sizing {given}\n{_said(given)}```"
        block = f"<!-- sizing:{profile.stem} -->\n{shown}\n<!-- /sizing:{profile.stem} -->"
        shown_before = re.compile(_SHOWN.format(name=profile.stem), re.DOTALL)
        text = shown_before.sub(block.replace("\\", r"\\"), text)
    return text


def stale() -> list[Path]:
    """The files that `sizing` would write otherwise."""
    made = {profile: with_sizes(profile) for profile in PROFILES} | {GUIDE: guide()}
    return [path for path, text in made.items() if path.read_text(encoding="utf-8") != text]


def _said(given: str, *more: str) -> str:
    ended = CliRunner(env={"TERMINAL_WIDTH": "200"}).invoke(cli, ["sizing", *shlex.split(given), *more])
    if ended.exit_code:
        raise NotSized(f"sizing {given}: {ended.output}")
    return ended.stdout
