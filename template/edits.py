"""Changes to the text of files, each of which says how often it must find its place.

A file that has moved on under an edit stops the rendering, and so the test of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


class EditFailed(ValueError):
    """A file no longer has what an edit changes."""


@dataclass(frozen=True)
class Lines:
    """Delete the lines in which `pattern` is found: `count` of them, or any number."""

    path: str
    pattern: str
    count: int | None = 1

    def apply(self, text: str) -> str:
        lines = text.splitlines(keepends=True)
        left = [line for line in lines if not re.search(self.pattern, line.rstrip("\n"))]
        _expect(self.count, len(lines) - len(left), self)
        return "".join(left)


@dataclass(frozen=True)
class Replace:
    """Put `new`, which may refer to groups, in the place of what `pattern` matches."""

    path: str
    pattern: str
    new: str
    count: int | None = 1

    def apply(self, text: str) -> str:
        changed, found = re.subn(self.pattern, self.new, text, flags=re.MULTILINE)
        _expect(self.count, found, self)
        return changed


@dataclass(frozen=True)
class Section:
    """Delete a section of a document, from its heading to the next one that is not below it."""

    path: str
    heading: str

    def apply(self, text: str) -> str:
        level = len(self.heading) - len(self.heading.lstrip("#"))
        pattern = rf"^{re.escape(self.heading)}\n.*?(?=^#{{1,{level}}} |\Z)"
        changed, found = re.subn(pattern, "", text, flags=re.MULTILINE | re.DOTALL)
        _expect(1, found, self)
        return changed.rstrip("\n") + "\n"


@dataclass(frozen=True)
class Block:
    """Delete the block of YAML whose first line is `first`, to the next line that is no deeper."""

    path: str
    first: str

    def apply(self, text: str) -> str:
        indent = len(self.first) - len(self.first.lstrip())
        pattern = rf"^{re.escape(self.first)}[^\n]*\n(?:(?: {{{indent + 1},}}[^\n]*|)\n)*"
        changed, found = re.subn(pattern, "", text, flags=re.MULTILINE)
        _expect(1, found, self)
        return changed


@dataclass(frozen=True)
class Remove:
    """Delete files: a path, or a pattern as the shell's, in which `*` takes `/`, too."""

    path: str


Edit = Lines | Replace | Section | Block | Remove


def apply(edits: Iterable[Edit], files: MutableMapping[str, str]) -> None:
    """Change `files`, texts by their paths. Raises EditFailed."""
    for edit in edits:
        if isinstance(edit, Remove):
            matching = [path for path in files if fnmatchcase(path, edit.path)]
            if not matching:
                raise EditFailed(f"{edit.path} is not there to be removed")
            for path in matching:
                del files[path]
        elif edit.path in files:
            files[edit.path] = edit.apply(files[edit.path])
        else:
            raise EditFailed(f"{edit.path} is not there to be changed")


def _expect(wanted: int | None, found: int, edit: Lines | Replace | Section | Block) -> None:
    if wanted is not None and found != wanted:
        raise EditFailed(f"{edit.path}: found {found} times, not {wanted}: {edit}")
