"""`python -m docs.reference`: write the references of this folder from the code they are about.

With --check it writes nothing, and the exit code is 1 when one of them is stale.
"""

import sys
from pathlib import Path

from docs.reference import commands, events, metrics, problems, routes, variables
from docs.reference.tables import made

HERE = Path(__file__).parent
OWN = "service.md"
INTRODUCTION = """\
What the features in `app/` add to what every service has."""


def service_page() -> str:
    sections = [section for room in (routes, problems, variables, metrics, events) for section in room.own()]
    return made("This service", INTRODUCTION, *filter(None, sections))


PAGES = {
    "variables.md": variables.page,
    "metrics.md": metrics.page,
    "log-events.md": events.page,
    "routes.md": routes.page,
    "problems.md": problems.page,
    "commands.md": commands.page,
    OWN: service_page,
}
"""All but the last are about the engine, and the same in each service."""


def stale() -> list[Path]:
    """Give the pages that are not what the code says now. A service needs no page of its own."""
    pages = {HERE / name: page for name, page in PAGES.items() if name != OWN or (HERE / name).exists()}
    return [path for path, page in pages.items() if _text_of(path) != page()]


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main() -> None:
    if "--check" in sys.argv[1:]:
        if found := stale():
            sys.exit(f"stale: {', '.join(path.name for path in found)}")
        return
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
