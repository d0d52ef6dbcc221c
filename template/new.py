"""`make new NAME=orders DIR=../orders`: a service in a folder of its own, with its first commit.

copier makes it (`copier.yml`). This checks what was asked for before anything is written, and commits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lifeguard.development.feature.names import NameRefused, Names

from template.make import LEDGER, SOURCE
from template.words import ServiceName, ServiceNameRefused

_YES = {
    "yes": True,
    "true": True,
    "1": True,
    "on": True,
    "no": False,
    "false": False,
    "0": False,
    "off": False,
}
_PARTS = ("KUBERNETES", "PGBOUNCER", "REPLICA", "TRACES")
_USAGE = "make new NAME=orders DIR=../orders"
_MADE = """
  {0} is made.

    cd {0}
    make run                      serve it on http://127.0.0.1:8000
    make feature NAME=invoices    add a feature
    make check test
"""
# For a commit where nobody has said who commits; where somebody has, it is theirs.
_NOBODY = {"user.name": "make new", "user.email": "make-new@localhost"}


class Refused(ValueError):
    """What was asked for cannot be made; the message, a line, says why."""


def main(arguments: list[str]) -> int:
    """Make a service; 2 and a line where it cannot be made as asked."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    try:
        answers = answers_of(given)
        folder = folder_for(given.get("DIR", ""))
        _check_source()
    except (Refused, NameRefused, ServiceNameRefused) as error:
        sys.stderr.write(f"make new: {error}\n")
        return 2
    command = [sys.executable, "-m", "copier", "copy", "--trust", "--quiet", "--defaults"]
    command += [part for name, value in answers.items() for part in ("--data", f"{name}={value}")]
    command += ["--vcs-ref", "HEAD"] if _is_repository(SOURCE) else []
    made = subprocess.run([*command, str(SOURCE), str(folder)], check=False)
    if made.returncode:
        return made.returncode
    _name_origin(folder)
    _commit(folder, str(answers["name"]))
    where = os.path.relpath(folder)
    print(_MADE.format(where))
    return 0


def answers_of(given: Mapping[str, str]) -> dict[str, object]:
    """The answers to copier's questions. Raises Refused, NameRefused and ServiceNameRefused."""
    if not given.get("NAME"):
        raise Refused(f"what is it called? {_USAGE}")
    feature = given.get("FEATURE") or "orders"
    if feature != LEDGER:
        Names.of(feature, given.get("SINGULAR", ""))
    engine = given.get("ENGINE") or "vendored"
    if engine not in {"vendored", "pinned"}:
        raise Refused(f"ENGINE={engine}: vendored, its source in packages/, or pinned, a wheel of it")
    answers: dict[str, object] = {
        "name": ServiceName.of(given["NAME"]).dashed,
        "feature": feature,
        "singular": given.get("SINGULAR", ""),
        "engine": engine,
    }
    for part in _PARTS:
        said = given.get(part) or "yes"
        if said.lower() not in _YES:
            raise Refused(f"{part}={said}: yes or no")
        answers[part.lower()] = _YES[said.lower()]
    return answers


def folder_for(place: str) -> Path:
    """A folder that is not there, or is empty. Raises Refused."""
    if not place:
        raise Refused(f"where? {_USAGE}")
    folder = Path(place).expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{place} is a file")
    if folder.exists() and any(folder.iterdir()):
        raise Refused(f"{place} is not empty")
    if folder.resolve().is_relative_to(SOURCE.resolve()):
        raise Refused(f"{place} is inside of the starter; a folder beside it would do: DIR=../{folder.name}")
    return folder


def _check_source() -> None:
    """What is not committed has no name by which an update could find it. Raises Refused."""
    if _is_repository(SOURCE) and _git(SOURCE, "status", "--porcelain").stdout:
        raise Refused(
            "this checkout has changes that are not committed (git status): commit them, or no update could"
            " tell them from the service's own"
        )


def _name_origin(folder: Path) -> None:
    """Updates come from the repository that this is a clone of, if it has the commit; else from here."""
    origin = _git(SOURCE, "remote", "get-url", "origin").stdout.strip()
    published = _git(SOURCE, "branch", "--remotes", "--contains", "HEAD").stdout.strip()
    answers = folder / ".copier-answers.yml"
    if ("://" in origin or "@" in origin) and published:
        lines = answers.read_text(encoding="utf-8").splitlines(keepends=True)
        changed = [f"_src_path: {origin}\n" if line.startswith("_src_path:") else line for line in lines]
        answers.write_text("".join(changed), encoding="utf-8")


def _commit(folder: Path, name: str) -> None:
    if _git(folder, "--version").returncode:
        print("There is no git here: the first commit is yours")
        return
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    said = [key for key in _NOBODY if not _git(folder, "config", key).stdout.strip()]
    identity = [part for key in said for part in ("-c", f"{key}={_NOBODY[key]}")]
    message = f"Make {name} of the starter"
    done = _git(
        folder, *identity, "-c", "commit.gpgSign=false", "commit", "--quiet", "--no-verify", "-m", message
    )
    if done.returncode:
        print(f"The first commit is yours: {done.stderr.strip()}")


def _is_repository(folder: Path) -> bool:
    top = _git(folder, "rev-parse", "--show-toplevel").stdout.strip()
    return bool(top) and Path(top).resolve() == folder.resolve()


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # What a hook or a worktree has set would be another repository's.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_DIR")}
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=outside, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(arguments, 127, "", "git is not here")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
