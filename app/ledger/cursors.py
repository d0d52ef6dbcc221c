"""Where a page ended, as an opaque token: eight bytes of an id in base64url.

A keyset and not an offset: page 1000 costs what page 1 does, and what is added meanwhile neither
repeats nor hides a row, with one exception. Ids are drawn when a row is inserted and rows are seen when
their transaction commits: one that commits late can appear below an id that a reader has passed. Who
pages to copy everything reads the last pages again, or the table in one transaction.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode

PATTERN = r"^[A-Za-z0-9_-]{11}$"
_BYTES = 8
_PADDING = "="


def encode(last_id: int) -> str:
    """The token of the page that ends with `last_id`."""
    return urlsafe_b64encode(last_id.to_bytes(_BYTES, signed=True)).decode().rstrip(_PADDING)


def decode(token: str) -> int:
    """The id in a token that matches PATTERN. Any such token is some place to go on from."""
    return int.from_bytes(urlsafe_b64decode(token + _PADDING), signed=True)
