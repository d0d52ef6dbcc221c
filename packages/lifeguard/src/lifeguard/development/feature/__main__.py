"""The command line of `make feature`, in a service's folder."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from alembic.script import ScriptDirectory
from alembic.util import CommandError

from .files import files_of, in_layers, mounted
from .names import NameRefused, Names

_VERSIONS = Path("migrations/versions")


def main() -> int:
    """Make a feature in the current folder; 2 and a line if that cannot be."""
    parser = argparse.ArgumentParser(prog="make feature", description="Make a feature.")
    parser.add_argument("name", help="the plural of what it is about, like `invoices`")
    parser.add_argument("--singular", default="", help="one of them, where the plural does not show it")
    arguments = parser.parse_args()
    try:
        _check_folders(Path(), arguments.name.strip().replace("-", "_"))
        names = Names.of(arguments.name, arguments.singular)
        made = make(Path(), names)
    except NameRefused as error:
        sys.stderr.write(f"make feature: {error}\n")
        return 2
    _tidy(made)
    sys.stdout.write(
        f"{names.plural}, each {names.with_article}:\n" + "".join(f"  {path}\n" for path in made)
    )
    return 0


def make(service: Path, names: Names) -> list[str]:
    """Write the feature's files, mount it, and give the paths of all of that: all or, if it raises, nothing.

    Raises NameRefused.
    """
    _check_folders(service, names.plural)
    written: dict[str, str] = {}
    for path, change in (("app/main.py", mounted), ("pyproject.toml", in_layers)):
        if not (service / path).exists():
            raise NameRefused(f"there is no {path} here: it is made in a service's folder")
        written[path] = change((service / path).read_text(encoding="utf-8"), names)
    _check_table(service, names.plural)
    revision, after = _next_revision(service)
    new = files_of(names, revision, after)
    for path, text in {**new, **written}.items():
        (service / path).parent.mkdir(parents=True, exist_ok=True)
        (service / path).write_text(text, encoding="utf-8")
    return [*new, *written]


def _check_folders(service: Path, name: str) -> None:
    """Before anything else that is wrong with the name: what is there already needs no better one."""
    for path in (f"app/{name}", f"app/{name}.py", f"tests/{name}"):
        if name.isidentifier() and (service / path).exists():
            raise NameRefused(f"{path} is there already: go on with that, or take another name")


def _next_revision(service: Path) -> tuple[str, str | None]:
    """The revision to be made, and the one before it."""
    try:
        script = ScriptDirectory(str(service / "migrations"))
        heads = script.get_heads()
    except CommandError as error:
        raise NameRefused(f"the revisions cannot be read: {error}") from error
    if len(heads) > 1:
        raise NameRefused(
            f"there are {len(heads)} last revisions, {', '.join(heads)}: `alembic merge` makes them one"
        )
    numbers = [int(one.revision) for one in script.walk_revisions() if one.revision.isdecimal()]
    return f"{max(numbers, default=0) + 1:04}", heads[0] if heads else None


def _check_table(service: Path, name: str) -> None:
    creates = re.compile(rf"\bCREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?\"?{name}\b", re.IGNORECASE)
    for path in sorted((service / _VERSIONS).glob("*.py")):
        if creates.search(path.read_text(encoding="utf-8")):
            raise NameRefused(f"{_VERSIONS / path.name} makes a table {name} already")


def _tidy(paths: list[str]) -> None:
    """Format what was written as the service's own rules say, where ruff is there."""
    ruff = Path(sys.executable).with_name("ruff")
    python = [path for path in paths if path.endswith(".py")]
    if ruff.exists():
        for command in (["check", "--fix", "--quiet"], ["format", "--quiet"]):
            subprocess.run([str(ruff), *command, *python], check=False)  # noqa: S603 - our own arguments


if __name__ == "__main__":
    raise SystemExit(main())
