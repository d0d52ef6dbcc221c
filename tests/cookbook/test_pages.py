"""The pages show the recipes as they are, and a recipe can be taken as it is."""

import ast
import re
import sys
from pathlib import Path

import pytest

from docs.cookbook.__main__ import shown_files, with_files
from docs.cookbook.test_own_problem import *  # noqa: F403 - a recipe that is a test, run here
from tests.cookbook.conftest import RECIPES

PAGES = sorted(RECIPES.glob("*.md"))
FILES = {
    path for path in RECIPES.glob("*") if path.suffix in {".py", ".sql"} and not path.name.startswith("__")
}
LIBRARIES = frozenset(
    (
        "asyncpg",
        "fastapi",
        "fastapi_problem",
        "httpx",
        "joserfc",
        "lifeguard",
        "prometheus_client",
        "pydantic",
        "pytest",
        "sqlalchemy",
        "starlette",
        "structlog",
        "typing_extensions",
    )
)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_page_shows_its_recipe_as_it_is(page: Path) -> None:
    """`make generated` brings it up to date."""
    text = page.read_text(encoding="utf-8")
    assert with_files(text) == text


def test_every_recipe_is_shown_and_every_page_is_listed() -> None:
    assert {file for page in PAGES for file in shown_files(page.read_text(encoding="utf-8"))} == FILES
    index = (RECIPES / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[.*\]\((\S+\.md)\)$", index, re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES if page.name != "README.md"]


def test_a_recipe_needs_no_other_file() -> None:
    """It is copied into another folder. The one that is a test names what it tests."""
    for path in FILES:
        if path.suffix == ".py" and not path.name.startswith("test_"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            imported = {
                name.partition(".")[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for name in (
                    [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                )
                if name
            }
            assert imported <= LIBRARIES | sys.stdlib_module_names, path.name
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 180, path.name
