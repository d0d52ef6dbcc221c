"""Shows each recipe's file on its page: `python -m docs.cookbook`, or `--check` to only look.

A page has `<!-- file:own_problem.py -->` and `<!-- /file -->`, and between them the file beside it.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
LANGUAGES = {".py": "python", ".sql": "sql"}
_SHOWN = re.compile(r"(<!-- file:(\S+) -->\n).*?(<!-- /file -->)", re.DOTALL)


def with_files(text: str) -> str:
    """The page with the files as they are now."""
    return _SHOWN.sub(lambda shown: f"{shown[1]}{_fenced(HERE / shown[2])}{shown[3]}", text)


def shown_files(text: str) -> list[Path]:
    return [HERE / name for _, name, _ in _SHOWN.findall(text)]


def _fenced(path: Path) -> str:
    return f"```{LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"


def main(arguments: list[str]) -> int:
    stale = [page for page in HERE.glob("*.md") if with_files(page.read_text()) != page.read_text()]
    for page in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{page.name} does not show its recipe as it is\n")
        else:
            page.write_text(with_files(page.read_text()))
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
