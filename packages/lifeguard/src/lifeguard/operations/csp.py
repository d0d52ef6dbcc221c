"""Content Security Policy: what the service's pages may load and run, and nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256


def inline(page: str, tag: str) -> str:
    """Give the source that allows the page's one inline `tag`, and no other."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


def policy(**sources: str) -> dict[str, str]:
    """Give the header of a page that needs these, `script_src="..."`, and nothing else from anywhere."""
    allowed = "".join(f"; {directive.replace('_', '-')} {source}" for directive, source in sources.items())
    closed = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return {"Content-Security-Policy": closed + allowed}
