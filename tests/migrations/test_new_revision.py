"""What `alembic revision` and `alembic merge` write: nothing that passes for applied before it is written."""

import shutil
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from tests.processes import ROOT


@pytest.fixture
def scripts(tmp_path: Path) -> ScriptDirectory:
    shutil.copy(ROOT / "migrations/script.py.mako", tmp_path)
    (tmp_path / "versions").mkdir()
    return ScriptDirectory(str(tmp_path))


def test_a_revision_that_is_not_written_cannot_be_applied(scripts: ScriptDirectory) -> None:
    made = scripts.generate_revision("0001", "orders have a note")
    assert made is not None
    for step in (made.module.upgrade, made.module.downgrade):
        with pytest.raises(NotImplementedError, match="not written"):
            step()


def test_a_merge_is_complete(scripts: ScriptDirectory) -> None:
    scripts.generate_revision("0001", "one")
    scripts.generate_revision("0002", "another", head="base", splice=True)
    made = scripts.generate_revision("0003", "both", head=("0001", "0002"))
    assert made is not None
    assert made.module.down_revision == ("0001", "0002")
    assert "NotImplementedError" not in Path(made.path).read_text()
