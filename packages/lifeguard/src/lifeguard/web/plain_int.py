"""Whole numbers in paths, queries, headers and forms, in one spelling each.

pydantic's `int` takes `1_0`, ` 1 `, `+1`, `007` and `1.0` from a text: several names for one thing, which a
cache, a log or the proxy in front takes for different ones. For JSON there is `strict=True`, pydantic's own.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_PLAIN = re.compile(r"0|-?[1-9][0-9]{0,18}")


def _plain(value: object) -> object:
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        raise PydanticCustomError("int_parsing", "Input should be a whole number in plain digits, 19 at most")
    return value


PlainInt = Annotated[int, BeforeValidator(_plain)]
"""An `int` that a text spells in digits, with `-` before them if it is below zero, and in no other way."""
