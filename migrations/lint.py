"""What is wrong with the revisions, as SQL: `python -m migrations.lint`, part of `make check`.

squawk (https://squawkhq.com) names statements that lock a table for long or break the version before. Each
revision is judged by itself, as what it meets is a database with rows in it: only tables that it makes itself
are empty. An exception stands above its statement, below its reason:

    -- From varchar(20) to text nothing is rewritten.
    -- squawk-ignore changing-column-type
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory

SCRIPTS = Path(__file__).parent

_SQUAWK = Path(sys.executable).with_name("squawk")
_EXCLUDED = (
    # The migrator's session has both.
    "require-lock-timeout",
    "require-statement-timeout",
    # These are about taste, and about the table of Alembic's own.
    "prefer-text-field",
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
    "prefer-identity",
)
_OLDEST_SERVER = "14.0"
_PREAMBLE = re.compile(r".*^-- Running upgrade[^\n]*$", re.DOTALL | re.MULTILINE)
_COLOURS = re.compile(r"\x1b(?:\[[\d;]*m|\]8;;[^\x1b]*\x1b\\)")
_OWN_STATEMENT = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM) alembic_version\b[^;]*;")


def main() -> int:
    """Print what is wrong with the revisions; 1 if there is anything."""
    found = lint(SCRIPTS)
    sys.stdout.write(found)
    return bool(found)


def lint(scripts: Path) -> str:
    """What is wrong with the revisions there; empty if nothing is. The lines are those of the SQL."""
    with tempfile.TemporaryDirectory() as directory:
        names = []
        found = ""
        for script in ScriptDirectory(str(scripts)).walk_revisions():
            sql = _rendered(scripts, script)
            names.append(f"{Path(script.path).stem}.sql")
            (Path(directory) / names[-1]).write_text(sql)
            found += "".join(f"{names[-1]}: {fault}\n" for fault in _faults(sql))
        return found + (_squawk(Path(directory), sorted(names)) if names else "")


def _rendered(scripts: Path, script: Script) -> str:
    output = io.StringIO()
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("path_separator", "os")
    before = script.down_revision
    start = before if isinstance(before, str) else "base"
    command.upgrade(config, f"{start}:{script.revision}", sql=True)
    return output.getvalue()


def _faults(sql: str) -> Iterator[str]:
    """What squawk does not look for. What a revision has besides an `autocommit_block()` is committed with
    it, and done again when the revision is tried again."""
    lines = [line.strip() for line in sql.splitlines()]
    for above, line in pairwise(["", *lines]):
        if line.startswith("-- squawk-ignore") and not above.startswith("--"):
            yield f"`{line}` needs a comment above it that says why"
    parts = re.split(r"^(?:BEGIN|COMMIT);$", _PREAMBLE.sub("BEGIN;", sql, count=1), flags=re.MULTILINE)
    within = parts[1::2]
    if len(within) > 1 and any(_OWN_STATEMENT.sub("", part).strip() for part in within):
        yield "autocommit_block() commits what stands beside it in the revision; give it one of its own"


def _squawk(directory: Path, names: list[str]) -> str:
    arguments = ["--pg-version", _OLDEST_SERVER, "--exclude", ",".join(_EXCLUDED), *names]
    done = subprocess.run(  # noqa: S603 - our own program and files
        [_SQUAWK, *arguments],
        cwd=directory,
        env={"NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return _COLOURS.sub("", done.stdout + done.stderr) if done.returncode else ""


if __name__ == "__main__":
    sys.exit(main())
