"""Numbers and UUIDs that Python's hash cannot tell apart, in what a client has sent.

A text's hash is salted. That of a number is the number modulo 2**61 - 1, and a UUID's is its number's.
Who knows that can write thousands with one hash. To put one into a `set[int]` or a `dict[UUID, ...]` then
compares it with all that are there: 60 ms for 64 KB, 0.5 s for 8192. Which model makes a set is not known
here, so such values are refused whatever they are for. By chance there are no two in a document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

MOST_ALIKE = 32
"""Different values of one hash: to put so many into a set is 500 comparisons."""

_OWN_HASH = 2**61 - 1  # smaller numbers are their own hash
_SHORTEST = len(str(_OWN_HASH))
_LONGEST = 4300  # digits that int() reads; there is no room for many that are longer
# As pydantic takes them from a text.
_NUMBER = re.compile(r"\s*[+-]?[0-9._]+(?:[eE][+-]?[0-9_]+)?\s*", re.ASCII)
_UUID = re.compile(r"(?:urn:uuid:|\{)?([0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12})\}?")


def has_too_many_alike(document: Any) -> bool:  # Any: whatever JSON stands for
    """Whether more than `MOST_ALIKE` different values or names of members have one hash."""
    numbers: list[int | Decimal] = []
    left = [document]
    while left:
        value = left.pop()
        kind = type(value)
        if kind is str:
            if _SHORTEST <= len(value) <= _LONGEST:
                numbers += _numbers_of(value)
        elif kind is int:
            if not -_OWN_HASH < value < _OWN_HASH:
                numbers.append(value)
        elif kind is list:
            left += value
        elif kind is dict:
            left += value
            left += value.values()
    by_hash = Counter(map(hash, numbers))
    often = {one for one, times in by_hash.items() if times > MOST_ALIKE}
    return bool(often) and _differ(number for number in numbers if hash(number) in often)


def _numbers_of(text: str) -> Iterator[int | Decimal]:
    """What a model may make of a text."""
    if uuid := _UUID.fullmatch(text):
        yield int(uuid[1].replace("-", ""), 16)
    if _NUMBER.fullmatch(text):
        with suppress(ArithmeticError):
            yield Decimal(text.strip())


def _differ(numbers: Iterator[int | Decimal]) -> bool:
    """Whether there are more than `MOST_ALIKE` of one hash when each counts once."""
    by_hash: dict[int, set[int | Decimal]] = {}
    for number in numbers:
        alike = by_hash.setdefault(hash(number), set())
        alike.add(number)
        if len(alike) > MOST_ALIKE:
            return True
    return False
