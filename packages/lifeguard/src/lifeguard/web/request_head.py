"""The fields of a request's head that are read before there is a `Request`: id, timeout, path, counts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

SHORTEST_TIMEOUT = 0.01
"""Seconds: in less nothing can be asked of a database, so a client that states less has made a mistake."""

MOST_HEADERS = 128
"""Fields of a head, and of the trailers behind a body; HAProxy takes 101."""
MOST_PARAMETERS = 1000
"""Of a query. Validation may make an error of each."""
LONGEST_PATH = 512
"""Characters of a path that are logged; a client may send 8 KiB."""
MOST_DIGITS = 4300
"""In a row, in a path: Starlette's `int` convertor calls int(), which raises for more (`sys.int_info`)."""
MOST_COOKIES = 300
"""Cookies, and backslashes in them, for which Python's own reader took quadratic time (CVE-2024-7592)."""

SINGLE = frozenset(
    (
        *(b"authorization", b"content-type", b"idempotency-key", b"origin"),
        *(b"x-consistency-token", b"x-request-priority", b"x-request-timeout"),
    )
)
"""Fields of one value that decide what a request does: of two, one reader takes the first, one the last."""

_DECIMAL = re.compile(rb"[0-9]{1,9}(\.[0-9]{0,9})?")  # float() takes `inf`, `nan`, `1_0` and ` 1` as well
_TOO_MANY_DIGITS = re.compile(rf"[0-9]{{{MOST_DIGITS + 1}}}")
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def cookies_in(value: bytes) -> int:
    """Count what `MOST_COOKIES` bounds in a Cookie header; all of a request's are read as one."""
    return 1 + value.count(b";") + value.count(b"\\")


def has_repeated(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a field of `SINGLE` is there more than once."""
    single = [name for name, _ in headers if name in SINGLE]
    return len(single) > 1 and len(single) > len(set(single))


def has_endless_number(path: str) -> bool:
    """Whether a path has a number that cannot be read."""
    return len(path) > MOST_DIGITS and _TOO_MANY_DIGITS.search(path) is not None


def has_too_many_parameters(query: bytes) -> bool:
    return query.count(b"&") >= MOST_PARAMETERS


def shown_path(scope: Mapping[str, Any]) -> str:
    """The path for a log line: as it came, since decoded it could hold line ends; without the query, where
    secrets travel; and not longer than `LONGEST_PATH`."""
    path: str = scope.get("raw_path", b"")[: LONGEST_PATH + 1].partition(b"?")[0].decode("latin-1")
    return path if len(path) <= LONGEST_PATH else f"{path[:LONGEST_PATH]}..."


def is_valid_id(value: bytes) -> bool:
    """Whether a client's X-Request-ID can be kept: it goes into logs, headers and `application_name`."""
    return _VALID_ID.fullmatch(value) is not None


def new_id() -> str:
    return os.urandom(16).hex()


def seconds(value: bytes) -> float | None:
    """Read X-Request-Timeout: seconds in plain decimals, `SHORTEST_TIMEOUT` at least; None for all else."""
    stated = float(value) if _DECIMAL.fullmatch(value) else 0.0
    return stated if stated >= SHORTEST_TIMEOUT else None
