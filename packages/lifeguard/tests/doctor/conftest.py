"""On a busy machine any check may take seconds."""

import pytest
from lifeguard.operations.checks import examination, replication


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "PATIENCE", 60.0)
    monkeypatch.setattr(replication, "PATIENCE", 60.0)
