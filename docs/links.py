"""`python -m docs.links dist/docs`: each link of the built pages leads to a page and a heading there.

Sphinx has looked at the links that authors write. This looks at the site as it is, the theme's links
included, and that a page loads nothing from anywhere else: no fonts, no scripts, no pictures.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page links to, loads, and has places for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            match name, value:
                case "id", str():
                    self.places.add(value)
                case "href", str() if tag == "a":
                    self.links.append(value)
                case "src" | "href", str():
                    self.loaded.append(value)


def faults(site: Path) -> Iterator[str]:
    """Yield a line for each link that leads nowhere, and for each thing that is loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        for link in (*page.links, *page.loaded):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.loaded and url.scheme != "data":
                    yield f"{where}: loads {link}"
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                yield f"{where}: no page {link}"
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].places:
                yield f"{where}: no heading {link}"


def main() -> None:
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
