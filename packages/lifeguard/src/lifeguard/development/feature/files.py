"""What a feature consists of, and where a service names it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from .names import NameRefused, Names

_FILES = Path(__file__).with_name("files")
_PARTS = {
    "__init__": "init",
    "router": "router",
    "schemas": "schemas",
    "service": "service",
    "queries": "queries",
}
_SERVICE_LAYERS = re.compile(
    r"(?P<head>^\[\[tool\.importlinter\.contracts\]\]\n(?:(?!^\[)[^\n]*\n)*?containers = \[\"app\"\]\n"
    r"(?:(?!^\[)[^\n]*\n)*?layers = \[)(?P<layers>[^\]]*)\]",
    re.MULTILINE,
)
_NOT_FEATURES = frozenset(("__main__", "commands", "main", "settings"))


def files_of(names: Names, revision: str, after: str | None) -> dict[str, str]:
    """The files of a feature by their paths in a service; `after` is the revision that its own follows."""
    made = {f"app/{names.plural}/{part}.py": f"{file}.py" for part, file in _PARTS.items()}
    made[f"migrations/versions/{revision}_{names.plural}.py"] = "migration.py"
    made[f"tests/{names.plural}/test_{names.plural}.py"] = "test.py"
    return {
        path: names.replaced_in((_FILES / f"{file}.txt").read_text(encoding="utf-8"))
        .replace("@revision@", f'"{revision}"')
        .replace("@down_revision@", f'"{after}"' if after else "None")
        for path, file in made.items()
    }


def mounted(main: str, names: Names) -> str:
    """The text of `app/main.py` with the feature's router included, after those that are.

    Raises NameRefused where its name means something else there, and where there is no place for it.
    """
    tree = ast.parse(main)
    _check_free(tree, names.plural)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Expr) and _includes_router(node.value)]
    ends = [
        node for node in ast.walk(tree) if isinstance(node, ast.Return) and isinstance(node.value, ast.Name)
    ]
    lines = main.splitlines(keepends=True)
    if calls:
        last = max(calls, key=lambda node: node.lineno)
        place, column, target = last.end_lineno or last.lineno, last.col_offset, _receiver(last.value)
    elif len(ends) == 1 and isinstance(ends[0].value, ast.Name):
        place, column, target = ends[0].lineno - 1, ends[0].col_offset, ends[0].value.id
    else:
        raise NameRefused("app/main.py has no `include_router(...)` after which this one would come")
    lines.insert(place, f"{' ' * column}{target}.include_router({names.plural}.router)\n")
    return _importing("".join(lines), tree, names.plural)


def in_layers(pyproject: str, names: Names) -> str:
    """The text of `pyproject.toml` with the feature beside the others in the contract on who imports whom."""
    found = _SERVICE_LAYERS.search(pyproject)
    if not found:
        return pyproject
    layers = re.findall(r'"([^"]+)"', found["layers"])
    features = [layer for layer in layers if not _NOT_FEATURES & set(re.findall(r"\w+", layer))]
    own = f"({names.plural})"
    if features:
        sign = "|" if "|" in features[0] else ":"
        inside = found["layers"].replace(f'"{features[0]}"', f'"{features[0]} {sign} {own}"')
    elif '"settings"' in found["layers"]:
        inside = found["layers"].replace('"settings"', f'"{own}", "settings"')
    else:
        return pyproject
    return pyproject[: found.start("layers")] + inside + pyproject[found.end("layers") :]


def _check_free(tree: ast.Module, name: str) -> None:
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
    if name in bound:
        raise NameRefused(f"app/main.py uses the name {name} already: take another")


def _includes_router(call: ast.expr) -> bool:
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "include_router"
        and isinstance(call.func.value, ast.Name)
    )


def _receiver(call: ast.expr) -> str:
    assert isinstance(call, ast.Call)
    assert isinstance(call.func, ast.Attribute)
    return ast.unparse(call.func.value)


def _importing(main: str, tree: ast.Module, name: str) -> str:
    """With `from app import name`, whose place is above the router's: lines below it do not matter."""
    lines = main.splitlines(keepends=True)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 0]
    for node in imports:
        if node.module == "app" and node.end_lineno == node.lineno:
            aliases = sorted([*(ast.unparse(alias) for alias in node.names), name])
            lines[node.lineno - 1] = f"from app import {', '.join(aliases)}\n"
            return "".join(lines)
    own = [node for node in imports if (node.module or "").partition(".")[0] == "app"]
    if not own:
        raise NameRefused("app/main.py imports nothing of app, beside which this would be imported")
    lines.insert(own[0].lineno - 1, f"from app import {name}\n")
    return "".join(lines)
