"""The page of `/pool/live`: one file, nothing from elsewhere, and nothing else may run on it."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

HTML = Path(__file__).with_name("live.html").read_text(encoding="utf-8")


def _hash_of(tag: str) -> str:
    """Give the CSP source that allows the page's one inline `tag`, and no other."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"connect-src 'self'; script-src {_hash_of('script')}; style-src {_hash_of('style')}"
    ),
    "Cache-Control": "no-store",
}
