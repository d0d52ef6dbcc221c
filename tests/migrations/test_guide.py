"""The example of docs/migrations.md, run: every version serves beside the next, on each schema in between."""

import re
from pathlib import Path

import asyncpg
from lifeguard.database import schema
from lifeguard.database.migrations import upgrade
from lifeguard.testing.revisions import Revisions

from app.settings import Settings
from migrations.lint import lint
from tests.inside import settings_for

GUIDE = Path(__file__).parents[2] / "docs/migrations.md"
FENCE = re.compile(r"^```(python|sql)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROWS = 2500  # of version 1: more than two batches

# After each revision: which versions may be serving.
SERVING = {
    "0002_add_note": (1, 2),
    "0003_fill_note": (2,),
    "0004_index_note": (2,),
    "0005_require_note": (2,),
    "0006_validate_note": (2,),
    "0007_note_instead_of_memo": (2, 3),
    "0008_drop_memo": (3,),
}


def revisions_and_versions() -> tuple[dict[str, str], dict[int, str]]:
    """The example's revisions by name, and the statements of each version of the service."""
    fences = FENCE.findall(GUIDE.read_text(encoding="utf-8"))
    revisions = {}
    for code in (code for language, code in fences if language == "python"):
        first, _, rest = code.partition("\n")
        revisions[first.removeprefix("# ").removesuffix(".py")] = rest
    return revisions, dict(enumerate((code for language, code in fences if language == "sql"), 1))


async def test_the_example_of_the_guide_keeps_every_version_serving(
    database_url: str, add_revision: Revisions
) -> None:
    revisions, versions = revisions_and_versions()
    assert list(revisions) == list(SERVING)
    assert set(versions) == {1, 2, 3}
    settings = settings_for(database_url)
    add_revision(
        "0001",
        "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, memo text NOT NULL)",
    )
    await upgrade(settings)
    connection = await asyncpg.connect(database_url)
    await connection.execute(versions[1])
    await connection.execute(f"INSERT INTO orders (memo) SELECT 'a gift' FROM generate_series(1, {ROWS})")
    before = "0001"
    for name, code in revisions.items():
        head = f"from alembic import op\nrevision = {name!r}\ndown_revision = {before!r}\n"
        (Settings.migrations / "versions" / f"{name}.py").write_text(head + code)
        schema.known_revisions.cache_clear()
        assert (await upgrade(settings)).current == name
        for version in SERVING[name]:
            await connection.execute(versions[version])
        before = name
    assert await connection.fetchval("SELECT count(*) FROM orders WHERE note = 'a gift'") > ROWS
    await connection.close()
    assert lint(Settings.migrations) == ""
