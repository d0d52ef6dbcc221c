"""How many characters a regular expression looks at, counted by going through its parts as `re` does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants as op
from re import _parser as parser
from typing import Any


class Steps:
    """Goes through the search of `pattern` in `text`, backtracking included. `count` is in characters."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self.count = 0
        self._text = text
        self._ignores_case = bool(pattern.flags & re.IGNORECASE)
        parts = list(parser.parse(pattern.pattern, pattern.flags))
        at = 0
        while at <= len(text):
            ends = self._all(parts, at)
            at = max(next(ends, at), at + 1)

    def _all(self, parts: list[Any], at: int) -> Iterator[int]:
        if not parts:
            yield at
            return
        kind, value = parts[0]
        for end in self._one(kind, value, at):
            yield from self._all(parts[1:], end)

    def _one(self, kind: Any, value: Any, at: int) -> Iterator[int]:
        match kind:
            case op.LITERAL | op.NOT_LITERAL | op.IN | op.ANY:
                if self._fits(kind, value, at):
                    yield at + 1
            case op.SUBPATTERN:
                yield from self._all(list(value[3]), at)
            case op.BRANCH:
                for branch in value[1]:
                    yield from self._all(list(branch), at)
            case op.MAX_REPEAT:
                least, most, inner = value
                yield from self._repeat(least, most, list(inner), at)
            case op.ASSERT | op.ASSERT_NOT:
                direction, inner = value
                start = at if direction > 0 else at - 1
                found = start >= 0 and next(self._all(list(inner), start), None) is not None
                if found is (kind is op.ASSERT):
                    yield at
            case _:
                raise AssertionError(f"{kind}: teach this class what it is")

    def _repeat(self, least: int, most: Any, inner: list[Any], at: int) -> Iterator[int]:
        """Greedy, without recursion: texts are longer than Python's stack is deep."""
        ends = [at]
        tries = [self._all(inner, at)]
        while tries:
            end = next(tries[-1], None) if len(tries) <= most else None
            if end is not None and end > ends[-1]:
                ends.append(end)
                tries.append(self._all(inner, end))
                continue
            tries.pop()
            reached = ends.pop()
            if len(ends) >= least:
                yield reached

    def _fits(self, kind: Any, value: Any, at: int) -> bool:
        self.count += 1
        if at >= len(self._text):
            return False
        character = self._text[at]
        letters = {character, character.lower(), character.upper()} if self._ignores_case else {character}
        if kind is op.ANY:
            return character != "\n"
        if kind is not op.IN:
            return (chr(value) in letters) is (kind is op.LITERAL)
        return any(self._is_in(value, letter) for letter in letters)

    @staticmethod
    def _is_in(members: list[Any], letter: str) -> bool:
        negated = members[0][0] is op.NEGATE
        for kind, value in members:
            if kind is op.LITERAL and chr(value) == letter:
                return not negated
            if kind is op.RANGE and value[0] <= ord(letter) <= value[1]:
                return not negated
            if kind is op.CATEGORY and letter.isspace() is (value is op.CATEGORY_SPACE):
                return not negated
        return negated
