"""The commands of the documents in `docs/database`, so that tests can run what people will."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DATABASE = Path(__file__).parents[1] / "docs/database"
_BLOCK = r"^( *)```{language}\n(.*?)^ *```$"


def blocks(document: str, heading: str = "", *, language: str = "sh", compose: bool = False) -> list[str]:
    """Give the blocks of one language below a heading, or in the whole document, in their order.

    Of shell, either those that go through compose or the others. Raises LookupError when there is none.
    """
    text = (DATABASE / document).read_text(encoding="utf-8")
    if heading:
        text = re.split(r"^## ", text.partition(f"\n## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(_BLOCK.format(language=language), text, re.MULTILINE | re.DOTALL)
    chosen = [
        textwrap.dedent(indent + block) if indent else block
        for indent, block in found
        if ("docker compose " in block) is compose
    ]
    if not chosen:
        raise LookupError(f"{document} has no {language} below {heading!r}")
    return chosen
