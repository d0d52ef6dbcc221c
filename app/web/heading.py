"""What the head of a request says about it, for whoever reads it before there is a `Request`."""

from __future__ import annotations

import math
import os
import re

_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


def is_valid_id(value: bytes) -> bool:
    """Whether a client's X-Request-ID can be kept: it goes into logs, headers and `application_name`."""
    return _VALID_ID.fullmatch(value) is not None


def new_id() -> str:
    return os.urandom(16).hex()


def seconds(value: bytes) -> float | None:
    """Read X-Request-Timeout; None if it is not a time that one can wait."""
    try:
        stated = float(value)
    except ValueError:
        return None
    return stated if 0 < stated < math.inf else None
