"""Revisions that would hold up the service are named before they are merged."""

import pytest
from lifeguard.testing.revisions import Revisions

from app.settings import Settings
from migrations import lint as linter
from migrations.lint import lint


def test_the_services_own_revisions_hold_nobody_up() -> None:
    assert lint(linter.SCRIPTS) == ""


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("CREATE INDEX things_n ON things (n)", "require-concurrent-index-creation"),
        ("DROP INDEX things_n", "require-concurrent-index-deletion"),
        ("ALTER TABLE things ALTER COLUMN n SET NOT NULL", "adding-not-nullable-field"),
        ("ALTER TABLE things ADD COLUMN m int NOT NULL", "adding-required-field"),
        ("ALTER TABLE things ADD COLUMN m uuid DEFAULT gen_random_uuid()", "adding-field-with-default"),
        ("ALTER TABLE things ALTER COLUMN n TYPE bigint", "changing-column-type"),
        ("ALTER TABLE things ADD CONSTRAINT positive CHECK (n > 0)", "constraint-missing-not-valid"),
        ("ALTER TABLE things ADD CONSTRAINT one UNIQUE (n)", "disallowed-unique-constraint"),
        ("ALTER TABLE things RENAME COLUMN n TO m", "renaming-column"),
        ("ALTER TABLE things DROP COLUMN n", "ban-drop-column"),
        (
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_n ON things (n)",
            "ban-concurrent-index-creation-in-transaction",
        ),
    ],
)
def test_what_locks_a_table_of_an_earlier_revision_is_named(
    add_revision: Revisions, statement: str, rule: str
) -> None:
    add_revision("one", "CREATE TABLE things (n int)")
    add_revision("two", statement)
    found = lint(Settings.migrations)
    assert rule in found
    assert "two.sql" in found
    assert "one.sql" not in found


def test_what_cannot_be_repeated_is_named(add_revision: Revisions) -> None:
    add_revision("one", "CREATE TABLE things (n int)")
    add_revision("two", "CREATE INDEX CONCURRENTLY things_n ON things (n)", autocommit=True)
    assert "prefer-robust-stmts" in lint(Settings.migrations)


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_stands_beside_an_autocommit_block_is_named(add_revision: Revisions, place: str) -> None:
    add_revision("one", "CREATE TABLE things (n int)")
    add_revision("two", "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_n ON things (n)", autocommit=True)
    assert lint(Settings.migrations) == ""
    file = Settings.migrations / "versions" / "two.py"
    beside = '    op.execute("COMMENT ON TABLE things IS NULL")\n'
    block = "    with op.get_context()"
    code = file.read_text()
    if place == "before":
        file.write_text(code.replace(block, beside + block))
    else:
        file.write_text(code.replace("\ndef downgrade", f"{beside}\ndef downgrade"))
    assert "two.sql: autocommit_block() commits" in lint(Settings.migrations)


def test_an_exception_stands_above_its_statement_and_below_its_reason(add_revision: Revisions) -> None:
    add_revision("one", "CREATE TABLE things (n int)")
    exception = "-- squawk-ignore ban-drop-column\nALTER TABLE things DROP COLUMN n"
    add_revision("two", f"-- No version that runs knows it.\n{exception}")
    assert lint(Settings.migrations) == ""
    add_revision("three", exception)
    assert "three.sql: `-- squawk-ignore ban-drop-column` needs a comment" in lint(Settings.migrations)
