"""What the head of a request says about it, for whoever reads it before there is a `Request`."""

from __future__ import annotations

import os
import re

SHORTEST_TIMEOUT = 0.01
"""Seconds: in less nothing can be asked of a database, so a client that states less has made a mistake."""

MOST_HEADERS = 200
MOST_PARAMETERS = 1000
"""Of a query. Each may be one that validation has a word to say about."""
MOST_COOKIES = 300
"""Cookies, and backslashes in them, for which Python's own reader took quadratic time (CVE-2024-7592)."""

_DECIMAL = re.compile(rb"[0-9]{1,9}(\.[0-9]{0,9})?")  # float() takes `inf`, `nan`, `1_0` and ` 1` as well
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def cookies_in(value: bytes) -> int:
    """Count what `MOST_COOKIES` bounds in a Cookie header; all of a request's are read as one."""
    return 1 + value.count(b";") + value.count(b"\\")


def has_too_many_parameters(query: bytes) -> bool:
    return query.count(b"&") >= MOST_PARAMETERS


def is_valid_id(value: bytes) -> bool:
    """Whether a client's X-Request-ID can be kept: it goes into logs, headers and `application_name`."""
    return _VALID_ID.fullmatch(value) is not None


def new_id() -> str:
    return os.urandom(16).hex()


def seconds(value: bytes) -> float | None:
    """Read X-Request-Timeout: seconds in plain decimals, `SHORTEST_TIMEOUT` at least; None for all else."""
    stated = float(value) if _DECIMAL.fullmatch(value) else 0.0
    return stated if stated >= SHORTEST_TIMEOUT else None
