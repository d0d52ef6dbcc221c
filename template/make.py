"""A service made of this checkout: which of its files it has, and what is different in them.

The copier template has one task, which is this. A rendering depends on the checkout and on the answers alone:
`copier update` makes the service of before and the service of now, and what its owner has changed is the
difference to the first. So nothing here looks at the service that is there, asks anybody, or runs its code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if __name__ == "__main__":  # run by copier, from a clone in which nothing is installed
    sys.path.insert(0, str(Path(__file__).parents[1]))
if TYPE_CHECKING:
    from lifeguard.development.feature.files import files_of, in_layers, mounted
    from lifeguard.development.feature.names import NameRefused, Names
else:
    sys.path.append(str(Path(__file__).parents[1] / "packages/lifeguard/src/lifeguard/development"))
    from feature.files import files_of, in_layers, mounted
    from feature.names import NameRefused, Names

from template.edits import Block, Edit, EditFailed, Lines, Remove, Replace, Section, apply
from template.locks import with_package
from template.locks import without as lock_without
from template.parts import KUBERNETES_OF_PGBOUNCER, without
from template.words import ServiceName, ServiceNameRefused, renamed

SOURCE = Path(__file__).parents[1]
LEDGER = "ledger"
_PARTS = ("kubernetes", "pgbouncer", "replica", "traces")

ROOMS = (
    "app",
    "deploy",
    "docs",
    "migrations",
    "packages",
    "tests",
    ".ci",
    ".github",
    ".devcontainer",
    ".vscode",
)
FILES = (
    *(
        ".dockerignore",
        ".editorconfig",
        ".env.example",
        ".gitignore",
        ".pre-commit-config.yaml",
        "CONTRIBUTING.md",
        "Dockerfile",
        "LICENSE",
        "SECURITY.md",
    ),
    *(
        "Makefile",
        "conftest.py",
        "docker-compose.yml",
        "pyproject.toml",
        "requirements.lock",
        "requirements-dev.lock",
    ),
)
DOCUMENTS = re.compile(
    r"docs/(?:database/[^/]+|reference/(?!service)[^/]+|choosing|configuration|deploy|development|doctor|extending"
    r"|faults|kubernetes|lanes|limits|migrations|operations|plans|pool|runbooks|security|testing|updating)\.md"
)
TESTS = re.compile(r"tests/(?:__init__|conftest|test_main|test_openapi)\.py|tests/deploy/.*|tests/ledger/.*")
OTHERS = re.compile(
    r"app/.*|migrations/.*|packages/.*|deploy/(?!end_to_end|releases\.py|stack\.py).*"
    r"|docs/(?:conf|links)\.py|docs/reference/\w+\.py|docs/site/.*|docs/requirements\.lock"
    r"|\.github/(?:dependabot\.yml|ISSUE_TEMPLATE/.*|pull_request_template\.md|workflows/(?:ci|update-locks)\.yml)|\.devcontainer/.*|\.vscode/.*"
)
RENAMED = re.compile(
    r"(?:deploy|docs|tests/deploy|\.github|\.devcontainer|\.vscode)/.*|docker-compose\.yml|Dockerfile|Makefile|\.env\.example"
    r"|requirements(?:-dev)?\.lock"
)
NOT_THE_ENGINES = re.compile(
    r"deploy/prometheus/|deploy/kubernetes/.*\.yaml$|docker-compose\.yml|deploy/.*\.bash$"
)
"""Files in which a name like `lifeguard.pool` is no module."""


class EngineNotBuilt(RuntimeError):
    """There is no wheel to be pinned; the message, a line, says why."""


@dataclass(frozen=True)
class Answers:
    """What copier has asked."""

    name: ServiceName
    feature: Names | None
    """None is the ledger."""
    left_out: tuple[str, ...]
    pinned: bool

    @classmethod
    def of(cls, said: Mapping[str, object]) -> Answers:
        """Raises NameRefused and ServiceNameRefused, with a line for whoever has answered."""
        feature = str(said["feature"])
        return cls(
            ServiceName.of(str(said["name"])),
            None if feature == LEDGER else Names.of(feature, str(said.get("singular") or "")),
            tuple(part for part in _PARTS if not said[part]),
            said["engine"] == "pinned",
        )


def texts_of(source: Path) -> dict[str, str]:
    """The files of the starter that a service may have. What is no text is kept as `surrogateescape` does."""
    found = {name: source / name for name in FILES if (source / name).is_file()}
    for room in ROOMS:
        for folder, names, files in os.walk(source / room):
            names[:] = [name for name in names if name not in {"__pycache__", ".hypothesis", "node_modules"}]
            for name in files:
                path = Path(folder, name).relative_to(source).as_posix()
                if any(which.fullmatch(path) for which in (DOCUMENTS, TESTS, OTHERS)):
                    found[path] = source / path
    texts = {path: file.read_text("utf-8", "surrogateescape") for path, file in found.items()}
    return {path: text for path, text in texts.items() if not _is_made(path)} | _imported_tests(source, texts)


def made_of(source: Path, answers: Answers) -> dict[str, str]:
    """The files of a service, by their paths. Raises EditFailed where the starter has moved on."""
    files = texts_of(source)
    apply(_EVERYWHERE, files)
    if answers.feature:
        without(LEDGER, files)
    for part in answers.left_out:
        without(part, files)
    if "pgbouncer" in answers.left_out and "kubernetes" not in answers.left_out:
        apply(KUBERNETES_OF_PGBOUNCER, files)
    if answers.feature:
        _add_feature(answers.feature, files)
    modules = {path.stem for path in (source / "packages/lifeguard/src/lifeguard").iterdir()}
    for path in (path for path in files if RENAMED.fullmatch(path)):
        files[path] = renamed(files[path], answers.name, () if NOT_THE_ENGINES.search(path) else modules)
    apply(_naming(answers.name), files)
    files["requirements-dev.lock"] = lock_without(
        files["requirements-dev.lock"], f"{answers.name.dashed} (pyproject.toml:bench)", *_OF_THE_COOKBOOK
    )
    if answers.pinned:
        _pin(source, answers.name, files)
    for path, text in texts_in(source / "template/service").items():
        files[path] = _filled_in(text, answers)
    files["LICENSE.lifeguard"] = files.pop("LICENSE")
    _unlink(files)
    return files


def texts_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


_EVERYWHERE: tuple[Edit, ...] = (
    Replace("pyproject.toml", r"^bench = \[\n(?:    .*\n)*\]\n", ""),
    Lines("pyproject.toml", r'^"bench/\*\*" = '),
    Lines("pyproject.toml", r'^"template/\*\*" = '),
    Replace("pyproject.toml", r'"bench", "template", ', ""),
    # Recipes are copied out of the starter: a service is not to keep them running.
    Lines("pyproject.toml", r"docs/cookbook/", 3),
    Lines("Makefile", r"-m docs\.cookbook", 2),
    Lines("pyproject.toml", r"^license = "),
    Replace("pyproject.toml", r'"tests", "packages/lifeguard/tests"\]', '"tests"]'),
    Replace(
        "pyproject.toml", r"^description = .*", 'description = "A service on FastAPI, asyncpg and PostgreSQL"'
    ),
    Replace("Dockerfile", r'(image\.description)=".*"', r'\1="A service on FastAPI, asyncpg and PostgreSQL"'),
    Lines("Dockerfile", r"image\.licenses="),
    Block(".github/workflows/ci.yml", "  compose:"),
    Replace(".github/workflows/ci.yml", "`make end-to-end`, ", ""),
    Section("docs/deploy.md", "## The proof"),
    Replace("docs/deploy.md", r" `make end-to-end` proves all that under load\.", ""),
    Replace("docs/deploy.md", r" `make end-to-end` measures both, and fails above two of the latter\.", ""),
    Replace("docs/pool.md", r"^`make test-pooler` runs .*\n.*\n", ""),
    Replace("docs/pool.md", r"^`make end-to-end` runs the service through it under load\.\n", ""),
    Replace("docs/security.md", "`make end-to-end`", "`python -m deploy.image_secrets`"),
    Replace("docs/security.md", r", \[bench\]\([^)]*\)", ""),
    Replace(
        "SECURITY.md",
        r"^(The newest version gets fixes\.) (?:.*\n)+?\n",
        r"\1 Those of the starter come by `make update` ([docs/updating.md](docs/updating.md)).\n\n",
    ),
)

_OF_THE_COOKBOOK = ("joserfc",)
"""What only its recipes import."""


def _naming(name: ServiceName) -> tuple[Edit, ...]:
    return (
        Replace("pyproject.toml", '^name = "ledger"', f'name = "{name.dashed}"'),
        Replace("app/settings.py", '"service_name": "ledger"', f'"service_name": "{name.dashed}"'),
        Replace(
            "app/__init__.py",
            '"""Lifeguard: .*',
            f'"""{name.title}: a service on FastAPI, asyncpg and PostgreSQL."""',
        ),
    )


_WITH_A_ROUTE = (
    "deploy/load/knee.js",
    "deploy/load/knee.py",
    "docs/deploy.md",
    "docs/lanes.md",
    "docs/runbooks.md",
)
"""Which show one of the service's."""


def _add_feature(feature: Names, files: MutableMapping[str, str]) -> None:
    apply([Replace("pyproject.toml", r'"\(ledger\)", ', "")], files)
    words = {
        "/v1/accounts": f"/v1/{feature.plural.replace('_', '-')}",
        "{account_id}": f"{{{feature.singular}_id}}",
        "lock on accounts": f"lock on {feature.plural}",
    }
    for path in _WITH_A_ROUTE:
        for word, value in words.items():
            files[path] = files[path].replace(word, value)
    files["app/main.py"] = mounted(files["app/main.py"], feature)
    files["pyproject.toml"] = in_layers(files["pyproject.toml"], feature)
    files.update(files_of(feature, "0001", None))


def _pin(source: Path, name: ServiceName, files: MutableMapping[str, str]) -> None:
    """The engine as a wheel in wheels/, pinned, instead of its source."""
    wheel, content = _wheel_of(source / "packages/lifeguard")
    version = wheel.split("-")[1]
    edits: list[Edit] = [
        Remove("packages/*"),
        Replace("pyproject.toml", r'^( +"lifeguard-pg\[service\])",.*', rf'\1=={version}",'),
        Replace("pyproject.toml", r"^\[tool\.uv\.sources\]\nlifeguard-pg = .*\n\n", ""),
        Replace(".dockerignore", "^!packages$", "!wheels"),
        Replace(
            "Dockerfile",
            r"^( +--mount=)source=requirements.*\n",
            r"\g<0>\1source=wheels,target=/tmp/wheels \\\n",
        ),
        Replace("Dockerfile", "uv pip sync --quiet", r"\g<0> --find-links /tmp/wheels"),
    ]
    apply(edits, files)
    files[f"wheels/{wheel}"] = content.decode("utf-8", "surrogateescape")
    for lock in ("requirements.lock", "requirements-dev.lock"):
        files[lock] = with_package(
            files[lock], "lifeguard-pg", version, content, f"{name.dashed} (pyproject.toml)"
        )


def _wheel_of(package: Path) -> tuple[str, bytes]:
    """The engine's wheel: its name and its content, for a commit always the same."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if uv is None:
        raise EngineNotBuilt("a wheel of the engine is built by uv, which is not here: pip install uv")
    with TemporaryDirectory() as folder:
        subprocess.run([uv, "build", "--quiet", "--wheel", str(package), "--out-dir", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.name, wheel.read_bytes()


def _filled_in(text: str, answers: Answers) -> str:
    """A file that only services have: with their names, and what is between `@if part@` and `@end@`."""
    has = {part: part not in answers.left_out for part in _PARTS}
    has |= {"ledger": not answers.feature, "feature": bool(answers.feature)}
    has |= {"pinned": answers.pinned, "vendored": not answers.pinned}

    def kept(found: re.Match[str]) -> str:
        return found[2] if has[found[1]] else ""

    text = re.sub(r"^@if (\w+)@\n(.*?)^@end@\n", kept, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"@if (\w+)@(.*?)@end@", kept, text, flags=re.DOTALL)
    folder = f"{answers.feature.plural if answers.feature else LEDGER}/"
    words = {"@title@": answers.name.title, "@name@": answers.name.dashed, "@feature@    ": f"{folder:13}"}
    for word, value in words.items():
        text = text.replace(word, value)
    return answers.feature.replaced_in(text) if answers.feature else text


def _is_made(path: str) -> bool:
    return path.startswith(("deploy/state/", "deploy/secrets/")) and path != "deploy/secrets/generate"


def _imported_tests(source: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """The helpers of the tests that a service has."""
    found: dict[str, str] = {}
    open_ = [text for path, text in texts.items() if path.startswith("tests/")]
    while open_:
        for name in re.findall(r"^(?:from|import) (tests(?:\.\w+)+)", open_.pop(), re.MULTILINE):
            path = f"{name.replace('.', '/')}.py"
            if path not in texts and path not in found:
                found[path] = (source / path).read_text("utf-8")
                open_.append(found[path])
    return found


_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def _unlink(files: MutableMapping[str, str]) -> None:
    """Keep the words alone of links that lead to what a service has not."""
    for path in [path for path in files if path.endswith(".md") and not path.startswith("packages/")]:
        for link in list(_LINK.finditer(files[path])):
            if not _leads(link[2], path, files):
                files[path] = files[path].replace(link[0], link[1])


def _leads(link: str, document: str, files: Mapping[str, str]) -> bool:
    if "://" in link or link.startswith("mailto:"):
        return True
    target, _, anchor = link.partition("#")
    path = os.path.normpath(PurePosixPath(document).parent / target) if target else document
    if path in files:
        return not anchor or anchor in _anchors(files[path])
    return any(one.startswith(f"{path}/") for one in files)


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def write(source: Path, service: Path, answers: Answers) -> None:
    """Write the service's files over whatever is there of them."""
    for path, text in made_of(source, answers).items():
        target = service / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8", "surrogateescape")
        target.chmod(0o755 if _is_executable(source, path) else 0o644)


def _is_executable(source: Path, path: str) -> bool:
    for origin in (source / "template/service" / path, source / path):
        if origin.exists():
            return bool(origin.stat().st_mode & stat.S_IXUSR)
    return False


def main(arguments: list[str]) -> int:
    """The task of the template, in the service's folder: its argument are the answers, as JSON."""
    try:
        write(SOURCE, Path(), Answers.of(json.loads(arguments[0])))
    except (NameRefused, ServiceNameRefused, EditFailed, EngineNotBuilt) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
