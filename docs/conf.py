"""How Sphinx makes a site of the documentation: `make docs`.

The pages are plain Markdown, which reads well in an editor and on a forge. What a site needs besides is made
here: contents beside each page, from the lists of docs/index.md, pictures of diagrams, links to pages only.
"""

import base64
import os
import re
from pathlib import Path, PurePosixPath

import mmdr
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
REPOSITORY = os.environ.get("DOCS_REPOSITORY", "").rstrip("/")
"""Where a forge shows the files: https://forge.example/orders/blob/main. Without it no page links to code."""

project = "Lifeguard"
html_title = project
html_theme = "furo"
html_show_sphinx = False
html_copy_source = False
html_extra_path = ["site"]
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/**/*.md",
    "bench/README.md",
    "packages/*/README.md",
    "packages/*/CHANGELOG.md",
]
exclude_patterns = [".*", "dist"]
suppress_warnings = ["misc.highlighting_failure"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
pygments_style = "friendly"

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


class Mermaid(Directive):
    """A diagram, rendered now: the page needs no script for it."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        picture = base64.b64encode(mmdr.render("\n".join(self.content)).svg().encode()).decode()
        html = f'<img class="diagram" alt="A diagram" src="data:image/svg+xml;base64,{picture}">'
        return [nodes.raw("", html, format="html")]


def prepare(app: Sphinx, name: str, source: list[str]) -> None:
    """Keep of a page's links those to other pages, and give the first page the contents of the site."""
    contents = _contents(app, name, source[0]) if name == root_doc or _is_first(name) else ""
    parts = _FENCE.split(source[0])
    parts[::2] = [_LINK.sub(lambda link: _link(app, name, link), part) for part in parts[::2]]
    source[0] = "".join(parts) + contents


def _link(app: Sphinx, page: str, link: re.Match[str]) -> str:
    text, target, _ = link.groups()
    path = _path(page, target)
    if "://" in target or _is_page(app, path) or not (ROOT / path).exists():
        return link[0]
    if REPOSITORY:
        return f"[{text}]({REPOSITORY}/{path})"
    return text if "`" in text else f"`{text}`"


def _contents(app: Sphinx, name: str, text: str) -> str:
    """Tables of contents from the lists of links under each heading; what no list has comes last."""
    if _is_first(name):
        return _toctree(
            "", [page for page in _listed(app, name, text) if Path(page).parent == Path(name).parent]
        )
    contents, listed = "", {name}
    for section in text.split("\n## ")[1:]:
        pages = [page for page in _listed(app, name, section) if page not in listed]
        listed.update(pages)
        contents += _toctree(section.partition("\n")[0], pages)
    folders = {Path(page).parent for page in app.env.found_docs if _is_first(page)}
    others = sorted(page for page in app.env.found_docs - listed if Path(page).parent not in folders)
    return contents + _toctree("More", others)


def _listed(app: Sphinx, name: str, text: str) -> list[str]:
    """The pages that a text links to, each once."""
    paths = [_path(name, target) for _, target, _ in _LINK.findall(text)]
    return [path.removesuffix(".md") for path in dict.fromkeys(paths) if _is_page(app, path)]


def _toctree(caption: str, pages: list[str]) -> str:
    head = f":hidden:\n:caption: {caption}\n" if caption else ":hidden:\n"
    entries = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n{head}\n{entries}\n```\n" if pages else ""


def _is_first(page: str) -> bool:
    """Whether it is the first page of a folder in docs/, and lists the others."""
    return page.startswith("docs/") and page.endswith("/README")


def _path(page: str, target: str) -> str:
    """A link's target from the root of the repository."""
    return os.path.normpath(PurePosixPath(page).parent / target)


def _is_page(app: Sphinx, path: str) -> bool:
    return path.removesuffix(".md") in app.env.found_docs


def setup(app: Sphinx) -> None:
    app.add_directive("mermaid", Mermaid)
    app.add_css_file("site.css")
    app.connect("source-read", prepare)
