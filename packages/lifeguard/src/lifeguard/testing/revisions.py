"""A history of revisions of a test's own."""

import shutil
from pathlib import Path

from lifeguard.database import schema

REVISION = '''
"""A revision of a test."""
from alembic import op
revision = {revision!r}
down_revision = {down!r}

def upgrade() -> None:
    {body}

def downgrade() -> None:
    op.execute("DROP TABLE things")
'''


class Revisions:
    """Empty at first, in the folder `scripts`, with the `env.py` of the service's `migrations`."""

    def __init__(self, scripts: Path, migrations: Path) -> None:
        self.versions = scripts / "versions"
        self.versions.mkdir(parents=True)
        shutil.copy(migrations / "env.py", scripts)
        self._last: str | None = None
        schema.known_revisions.cache_clear()

    def __call__(self, revision: str, sql: str, *, autocommit: bool = False) -> None:
        """Add a revision that runs `sql`, in an `autocommit_block()` if so wanted. Its downgrade drops the
        table `things`."""
        body = f"op.execute({sql!r})"
        if autocommit:
            body = f"with op.get_context().autocommit_block():\n        {body}"
        self.write(revision, REVISION.format(revision=revision, down=self._last, body=body))
        self._last = revision

    def write(self, name: str, code: str) -> None:
        """Write a revision's file."""
        (self.versions / f"{name}.py").write_text(code)
        schema.known_revisions.cache_clear()
