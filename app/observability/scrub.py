"""Takes secrets out of texts before they leave the process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

HIDDEN = "***"
# A secret of one or two letters would blank out half of every line; in URLs it is still hidden.
_SHORTEST_SEARCHED = 3

# user:password@ in any URL, and password=... as libpq and query strings write it.
_LOGIN = re.compile(r"(://[^\s:/@'\"]*):[^\s'\"]*@")
_PARAMETER = re.compile(r"\b(\w*passw(?:or)?d)=[^\s&'\"]+", re.IGNORECASE)


class Scrubber:
    """Replaces the secrets it was told, and what looks like a password in a URL, by `***`.

    A text with nothing to hide costs a few substring searches and no regular expression.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        written = {form for secret in secrets for form in _forms(secret)}
        # The longest first: a secret may contain another one.
        self._secrets = sorted(
            (form for form in written if len(form) >= _SHORTEST_SEARCHED), key=len, reverse=True
        )

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        if "@" in text and "://" in text:
            text = _LOGIN.sub(rf"\1:{HIDDEN}@", text)
        if "passw" in text or "PASSW" in text:
            text = _PARAMETER.sub(rf"\1={HIDDEN}", text)
        return text


def _forms(secret: str) -> set[str]:
    """Give `secret` as it stands in plain text, in JSON, and in a Python representation."""
    return {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]}
