"""What the pages of a reference have in common: where they come from, and their tables."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs/runbooks.md"


def made(title: str, introduction: str, *sections: str) -> str:
    """A page, with a line that says that nobody should edit it."""
    note = "<!-- Made from the code by `make generated`. What is wrong here is wrong there. -->"
    return "\n\n".join([note, f"# {title}", linked(introduction), *sections]) + "\n"


def table(heading: str, columns: Sequence[str], rows: Iterable[Sequence[str]], introduction: str = "") -> str:
    """A section with a table; nothing where there are no rows."""
    cells = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    if not cells:
        return ""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *cells]
    return "\n\n".join(filter(None, [f"## {heading}", linked(introduction), "\n".join(lines)]))


def linked(text: str) -> str:
    """The text with links: to pages that it names as `docs/...`, and to the runbooks of alerts."""
    text = re.sub(r"\bdocs/([\w/-]+\.md)(#[\w-]+)?", lambda page: _page(page[1], page[2] or ""), text)
    return re.sub(r"\bthe alert (\w+)", lambda alert: _runbook(alert[1]), text)


def _page(name: str, anchor: str) -> str:
    """A link to a page; its name, where a service does not have it."""
    return f"[{name}](../{name}{anchor})" if (ROOT / "docs" / name).exists() else name


def _runbook(alert: str) -> str:
    """A link to the section of an alert, whose whole name begins with that of the service."""
    found = re.search(rf"^## (\w*{alert})$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)
    return f"[{found[1]}](../runbooks.md#{found[1].lower()})" if found else alert


def _cell(text: str) -> str:
    return linked(" ".join(text.split()).replace("|", "\\|"))
