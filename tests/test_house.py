"""Rules of the house that no linter has: how long a file may be, who imports whom, what comments name."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import lifeguard

ROOT = Path(__file__).parents[1]
ENGINE = Path(lifeguard.__file__).parent
ENGINE_TESTS = ROOT / "packages/lifeguard/tests"
SOURCES = sorted(path for package in (ENGINE, ROOT / "app") for path in package.rglob("*.py"))
LONGEST_FILE, LONGEST_TESTS, LONGEST_FUNCTION = 400, 500, 60
MADE = ("deploy/state/", "deploy/secrets/")
"""Where the scripts of deploy/ keep what they make."""
OF_MADE_SERVICES = ("parcels", "app/mine.py", "deploy/new_in_this_version.py", "versions/0001_x.py")
"""In services that tests and drills make."""

PATH = re.compile(r"(?<![\w./<$}-])(?:app|packages|tests|bench|deploy|docs|migrations|\.ci)/[\w./-]*\.\w+")
MODULE = re.compile(r"[` (]((?:lifeguard|app)(?:\.[A-Za-z_]\w*)+)(?![\w/-])")


def shown(path: Path) -> str:
    return str(path.relative_to(ENGINE if path.is_relative_to(ENGINE) else ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_file_is_long() -> None:
    tests = [path for folder in (ROOT / "tests", ENGINE_TESTS) for path in folder.rglob("*.py")]
    limits = dict.fromkeys(SOURCES, LONGEST_FILE) | dict.fromkeys(tests, LONGEST_TESTS)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in limits}
    assert not {shown(path) for path, length in lengths.items() if length > limits[path]}


def test_no_function_is_long() -> None:
    lengths = {
        f"{shown(path)}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name for name, length in lengths.items() if length > LONGEST_FUNCTION}


def test_no_group_of_a_pattern_is_possessive() -> None:
    """Before Python 3.11.5 such a group matches what it must not (CPython's issue 106052)."""
    possessive = re.compile(r"""\)(?:[*+?]|\{[^}]*\})\+["')(|]""")
    assert possessive.search('rb"(?:%[0-9A-F]{2})*+"')
    assert not {shown(path) for path in SOURCES if possessive.search(path.read_text(encoding="utf-8"))}


def test_no_modules_import_each_other() -> None:
    """Neither two nor several in a circle, also where only a type checker would notice."""
    imports = {_module(path): set(_imported(path)) for path in SOURCES}
    while leaves := {name for name, needed in imports.items() if not needed & imports.keys()}:
        for name in leaves:
            del imports[name]
    assert not imports, f"in circles, or above one: {sorted(imports)}"


def _module(path: Path) -> str:
    package = ENGINE if path.is_relative_to(ENGINE) else ROOT / "app"
    return ".".join((package.name, *path.relative_to(package).with_suffix("").parts)).removesuffix(
        ".__init__"
    )


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found = f"{node.module}.{alias.name}"
                yield found if _is_module(found) else node.module


def _is_module(name: str) -> bool:
    package, _, rest = name.partition(".")
    base = {"lifeguard": ENGINE, "app": ROOT / "app"}.get(package)
    if base is None:
        return False
    path = base.joinpath(*rest.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def test_the_engine_s_tests_know_nothing_of_the_service_nor_its_tests_of_them() -> None:
    """Either folder is complete without the other: `packages/` may be deleted, and so may `app/`."""
    others = {
        ENGINE_TESTS: {path.name for path in ROOT.glob("[!.]*") if path.is_dir()} - {"packages"}
        | {"conftest"},
        ROOT / "tests": {"packages"},
    }
    found = [
        f"{shown(path)}: {name}"
        for folder, unknown in others.items()
        for path in folder.rglob("*.py")
        for name in _imported(path)
        if name.partition(".")[0] in unknown
    ]
    assert not found


def test_what_comments_and_docstrings_name_exists() -> None:
    folders = (
        ENGINE,
        ENGINE_TESTS,
        *(ROOT / name for name in ("app", "tests", "bench", "deploy", "migrations", ".github", ".ci")),
    )
    files = [ROOT / "Makefile", ROOT / "Dockerfile", ROOT / "pyproject.toml", ROOT / "docker-compose.yml"]
    files += [
        path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".yml", ".sql", ""}
    ]
    missing = [
        f"{shown(path)}: {name}"
        for path in files
        if path.is_file() and not path.is_relative_to(ROOT / "deploy/secrets")
        for name in _missing(path.read_text(encoding="utf-8"))
    ]
    assert not missing


def _missing(text: str) -> Iterator[str]:
    yield from (path for path in PATH.findall(text) if not _exists(path))
    for line in text.splitlines():
        remark = line if "`" in line else line.partition("#")[2]
        yield from (
            name for name in MODULE.findall(remark) if not name.endswith(".yml") and not _resolves(name)
        )


@cache
def _resolves(name: str) -> bool:
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def _exists(path: str) -> bool:
    """Whether it does, or went with something that a service may have deleted."""
    gone = [at.rpartition("/")[2] for at in ("app/ledger", "packages") if not (ROOT / at).exists()]
    return (
        (ROOT / path).exists()
        or path.startswith(MADE)
        or any(name in path for name in (*gone, *OF_MADE_SERVICES))
    )
