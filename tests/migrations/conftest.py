"""`add_revision("one", "CREATE ...")`: to a history of the test's own."""

from pathlib import Path

import pytest
from lifeguard.testing.revisions import Revisions

from app.settings import Settings


@pytest.fixture
def add_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Revisions:
    """Empty at first; the service takes it for its own."""
    revisions = Revisions(tmp_path / "migrations", Settings.migrations)
    monkeypatch.setattr(Settings, "migrations", tmp_path / "migrations")
    return revisions
