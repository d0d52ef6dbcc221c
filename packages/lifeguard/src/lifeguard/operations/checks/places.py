"""Where in the source a statement stands: so the server's numbers lead to the code that borrows for it.

The server counts statements by their text, with its own `$n` for what was written as a constant. In the code
they are literals, some put together from pieces. So both are brought to one form, in which pieces that are
not known before the program runs match anything.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import lifeguard

_KEYWORD = re.compile(r"\b(?:SELECT|INSERT|UPDATE|DELETE|MERGE|VALUES)\b", re.IGNORECASE)
_STATEMENT = re.compile(r"\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE)\b", re.IGNORECASE)
_CONSTANT = re.compile(r"'(?:[^']|'')*'|\$\d+|-?\b\d+(?:\.\d+)?\b|\b(?:null|true|false)\b|(?<=extract\()\w+")
# PostgreSQL 18 keeps one of a list of constants.
_LIST = re.compile(r"\?(?: ?, ?\?)+|\? ?/\*, \.\.\. \*/")
_SPACE = re.compile(r"\s+")
_FIELD = re.compile(r"\{\w*\}")  # of str.format()
_ANYTHING = "\0"
_SHORTEST = 12
"""Characters that a piece of text has to have in common with a statement."""


@dataclass(frozen=True, slots=True)
class _Text:
    pattern: re.Pattern[str]
    place: str


@functools.cache
def places_in(*roots: Path) -> Places:
    """Those of the first of `roots` that has a statement are told; they are read once."""
    return Places(*roots)


class Places:
    """The statements in the source of a service, and in the engine's own."""

    def __init__(self, *roots: Path) -> None:
        """The first of `roots` that has a statement is told."""
        self._texts = [text for root in roots for text in _texts_below(root)]

    def of(self, statement: str) -> str | None:
        """`file:line in function`, if it is found."""
        plain = _plain(statement)
        return next((text.place for text in self._texts if text.pattern.fullmatch(plain)), None)


def source_of(model: type) -> tuple[Path, ...]:
    """Where the code of the service is that has this class of settings, and the engine's."""
    file = getattr(sys.modules.get(model.__module__), "__file__", None)
    engine = Path(lifeguard.__file__).parent
    own = (engine / "database", Path(__file__).parent)
    return own if file is None or engine in Path(file).parents else (Path(file).parent, *own)


def _texts_below(root: Path) -> Iterator[_Text]:
    for file in sorted(root.rglob("*.py")):
        try:
            source = file.read_text(encoding="utf-8")
            module = ast.parse(source if _KEYWORD.search(source) else "")
        except (OSError, SyntaxError, ValueError):
            continue
        try:
            name = file.relative_to(Path.cwd())
        except ValueError:
            name = file.relative_to(root.parent)
        yield from _texts_in(module, str(name), "", _users_in(module))


def _texts_in(node: ast.AST, file: str, within: str, users: Mapping[str, str]) -> Iterator[_Text]:
    """Yield the statements of a tree; a literal inside of a larger one is not one of its own. `users` are the
    functions that know a constant, by its name."""
    for child in ast.iter_child_nodes(node):
        inside = within
        match child:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                inside = f"{within}.{name}" if within else name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                inside = within or users.get(name, "")
        text = _text_of(child)
        if text is None:
            yield from _texts_in(child, file, inside, users)
        elif _STATEMENT.match(text) and len(text.replace(_ANYTHING, "")) >= _SHORTEST:
            pieces = map(re.escape, _plain(text).split(_ANYTHING))
            place = f"{file}:{getattr(child, 'lineno', 0)}" + (f" in {inside}" if inside else "")
            yield _Text(re.compile(".*".join(pieces), re.DOTALL), place)


def _users_in(module: ast.Module) -> dict[str, str]:
    """The first function of a module that knows a name of its own, by that name."""
    functions = [
        node for node in ast.walk(module) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    users: dict[str, str] = {}
    for function in functions:
        for node in ast.walk(function):
            if isinstance(node, ast.Name):
                users.setdefault(node.id, function.name)
    return users


def _text_of(node: ast.AST) -> str | None:
    """What a text literal says, with _ANYTHING for what it gets when it runs; None if it is none."""
    match node:
        case ast.Constant(value=str(text)):
            return _FIELD.sub(_ANYTHING, text)
        case ast.JoinedStr(values=values):
            return "".join(_text_of(value) or _ANYTHING for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            parts = [_text_of(left), _text_of(right)]
            return None if parts == [None, None] else "".join(part or _ANYTHING for part in parts)
        case _:
            return None


def _plain(text: str) -> str:
    plain = _CONSTANT.sub("?", _SPACE.sub(" ", text).casefold())
    return _LIST.sub("?", plain).strip().rstrip("; ")
