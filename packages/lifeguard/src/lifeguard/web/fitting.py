"""Making any content an answer of bounded size, whatever it was made from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

LARGEST = 63 * 1024
"""Bytes. A problem has 64 KiB, with its request's id."""
LONGEST_TEXT = 4096
"""Characters of one text in it."""

_DEEPEST = 16
_CUT = "..."
_LARGEST_INTEGER = 2**64
_PUNCTUATION = 4
"""Bytes around a value, at most: two brackets, a colon and a comma."""


def fitted(content: Mapping[str, Any]) -> dict[str, Any]:
    """Give `content` as JSON can tell it, in `LARGEST` bytes and in steps that this bounds.

    Members are taken in their order until the space is used up. A text that is too long is cut; a value that
    JSON does not have (a date, an exception, NaN) is written as its `str`; halves of characters are replaced.
    """
    return _Space(LARGEST).mapping(content, 0)


class _Space:
    def __init__(self, size: int) -> None:
        self._left = size

    def mapping(self, content: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        told: dict[str, Any] = {}
        self._take(_PUNCTUATION)
        for name, value in content.items():
            before = self._left
            shown = self._text(str(name))
            made = self._value(value, depth + 1)
            if self._left < 0:
                self._left = before
                break
            told[shown] = made
        return told

    def _items(self, content: Iterable[Any], depth: int) -> list[Any]:
        told: list[Any] = []
        self._take(_PUNCTUATION)
        for value in content:
            before = self._left
            made = self._value(value, depth + 1)
            if self._left < 0:
                self._left = before
                break
            told.append(made)
        return told

    def _value(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool):
            self._take(len("false") + _PUNCTUATION)
            return value
        if isinstance(value, int) and abs(value) < _LARGEST_INTEGER:
            self._take(len(str(int(value))) + _PUNCTUATION)
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            self._take(len(repr(value)) + _PUNCTUATION)
            return value
        if depth < _DEEPEST and isinstance(value, Mapping):
            return self.mapping(value, depth)
        if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
            return self._items(value, depth)
        return self._text(_words(value))

    def _text(self, text: str) -> str:
        cut = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - len(_CUT)] + _CUT
        encoded = cut.encode("utf-8", "replace")
        shown = encoded.decode()
        plain = shown.isascii() and shown.isprintable() and '"' not in shown and "\\" not in shown
        size = len(shown) + 2 if plain else len(json.dumps(shown, ensure_ascii=False).encode())
        self._take(size + _PUNCTUATION)
        return shown

    def _take(self, size: int) -> None:
        self._left -= size


def _words(value: object) -> str:
    if isinstance(value, int):  # str() refuses one of more than 4300 digits
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, Mapping | list | tuple | set | frozenset):  # deeper than is shown
        return _CUT
    return str(value[:LONGEST_TEXT] if isinstance(value, bytes | bytearray) else value)
