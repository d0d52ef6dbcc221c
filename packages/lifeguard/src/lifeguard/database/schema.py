"""The revision of a database's schema, compared with the revisions that this code has.

Alembic is not asked: it and SQLAlchemy are a third of the service's start and of its memory, and only
`migrate` needs them. The names of the revisions are read from their files instead.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lifeguard.database.errors import MigrationError
from lifeguard.database.types import ReadConnection

Standing = Literal["current", "behind", "ahead"]

FOREIGN = (
    "another checkout or a newer version migrated it, or the revision was deleted here: take the checkout"
    " that has it, or a new database"
)
"""What to do in development about a schema that is ahead. In production it is a rollout under way."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The revision of a database, compared with those of this version of the code."""

    current: str | None
    """Revision of the database; None before the first."""
    head: str | None
    """Newest revision that this code has; None if it has none at all."""
    known: bool
    """Whether this code has `current`. If not, a newer version has migrated already."""

    @property
    def is_old(self) -> bool:
        """The code needs what the database does not have yet.

        A newer schema is not old: during a rollout the previous version goes on serving on it.
        """
        return self.known and self.current != self.head

    @property
    def standing(self) -> Standing:
        """The state in a word. What this code does not know is ahead of it."""
        if not self.known:
            return "ahead"
        return "behind" if self.is_old else "current"

    def __str__(self) -> str:
        here = f"at revision {self.current}" if self.current else "not migrated yet"
        if not self.known:
            return f"the schema is {here}, which this version does not have"
        wanted = f"needs {self.head}" if self.head else "has no revisions"
        return f"the schema is {here}, this version {wanted}"


def head_revision(migrations: Path) -> str | None:
    """The newest revision that this code has. Raises MigrationError if there are several."""
    return known_revisions(migrations).head


async def current_revision(connection: ReadConnection) -> str | None:
    """The revision of the database; None if nothing has been migrated."""
    # Asked first: a query for a table that is not there would leave an error in the server's log.
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision


async def schema_state(connection: ReadConnection, migrations: Path) -> SchemaState:
    """Compare the database with this code; two round trips, no lock."""
    revisions = known_revisions(migrations)
    current = await current_revision(connection)
    return SchemaState(current, revisions.head, current is None or current in revisions.all)


@dataclass(frozen=True, slots=True)
class _Revisions:
    head: str | None
    all: frozenset[str]


@functools.cache
def known_revisions(migrations: Path) -> _Revisions:
    parents: dict[str, list[str]] = {}
    for script in sorted((migrations / "versions").glob("*.py")):
        names = dict(_literals(ast.parse(script.read_text(encoding="utf-8"))))
        if not {"revision", "down_revision"} <= names.keys():
            raise MigrationError(f"{script.name} does not say in plain text which revision it is")
        down = names["down_revision"]
        parents[names["revision"]] = [down] if isinstance(down, str) else list(down or ())
    heads = sorted(parents.keys() - {parent for several in parents.values() for parent in several})
    if len(heads) > 1:
        raise MigrationError(f"two revisions claim to be the newest: {', '.join(heads)}")
    return _Revisions(heads[0] if heads else None, frozenset(parents))


def _literals(module: ast.Module) -> Iterator[tuple[str, Any]]:
    """Yield the module's own `name = "value"`, with an annotation or without."""
    for statement in module.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with suppress(ValueError):
                    yield name, ast.literal_eval(value)
