"""What a service can do without, and how it is taken out: for services that are made, and for `.ci/without`.

python -m template.parts replica    takes it out of the current folder, and says what tests the rest
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from template.edits import Block, Edit, EditFailed, Lines, Remove, Replace, apply


@dataclass(frozen=True)
class Part:
    edits: tuple[Edit, ...]
    documents: tuple[Edit, ...] = ()
    """Of the documents of a service, which the starter's tests do not want changed."""
    tests: tuple[str, ...] = ("tests/test_main.py", "tests/test_openapi.py", "tests/ledger")
    """Of the service: starting, what is mounted, documentation, what requests meet."""
    but: str = ""
    """Tests there that are about the part, as pytest's `-k` names them."""


PARTS: dict[str, Part] = {
    "ledger": Part(
        (
            Lines("app/main.py", "ledger", 2),
            Remove("app/ledger/*"),
            Remove("tests/ledger/*"),
            Remove("migrations/versions/*ledger*"),
        ),
        documents=(
            Lines("docs/security.md", r"^\| the books \|"),
            Replace(
                "docs/security.md",
                "new entries and balances; not the past",
                "the rows of its tables, not the schema",
            ),
            Replace(
                "docs/security.md",
                r"^\*\*What the example does not have\*\*([^.]*\.).*\n.*anybody's\. ",
                r"**What it does not have**\1 ",
            ),
            Lines("docs/security.md", r"taken over rewrites history"),
            Replace("docs/security.md", r", \[test_strictness\.py\]\([^)]*\)", ""),
            Replace(
                "docs/security.md",
                r", as \[0001_ledger\.py\]\([^)]*\) does\. It does so",
                ". It should do so",
            ),
            Lines("docs/security.md", r" ON accounts", 2),
            Replace("docs/security.md", r"^Idempotency keys are a column(?:.*\n)+?\n", ""),
        ),
        # All but those of the template, which needs it.
        tests=(
            "tests/test_*.py",
            *(f"tests/{room}" for room in ("bench", "cookbook", "deploy", "migrations")),
        ),
    ),
    "stale-answers": Part(
        (Lines("app/main.py", r"protection\.stale_answers"),),
        but="asked_for_before",  # and answered while the database is away
    ),
    "plans": Part(
        (Lines("app/main.py", r"plans\.install"),),
    ),
    "live-page": Part(
        (Lines("app/main.py", r"include_operators\(live_page"),),
        but="live",
    ),
    "traces": Part(
        (
            Lines("app/main.py", "telemetry=traces"),
            Replace("app/main.py", "import logs, traces$", "import logs"),
        ),
    ),
    "replica": Part(
        (
            Lines("docker-compose.yml", r"^  replica(-2)?-data:$", count=2),
            Block("docker-compose.yml", "  replica:"),
            Block("docker-compose.yml", "  replica-2:"),
            Remove("deploy/replica/*"),
        ),
        documents=(
            Lines("docs/deploy.md", r"^\| `replicas?` \|", count=2),
            Replace("docs/deploy.md", r"^\*\*Replica\.\*\*(?s:.*?)(?=^\*\*Backups)", ""),
        ),
        tests=("tests/test_main.py", "tests/deploy/test_compose.py", "tests/deploy/test_secrets.py"),
    ),
    "pgbouncer": Part(
        (
            Block("docker-compose.yml", "  pgbouncer:"),
            Remove("deploy/pgbouncer/*"),
            Remove("tests/deploy/test_pgbouncer.py"),
        ),
        documents=(
            Lines("docs/deploy.md", r"^\| `pgbouncer` \|"),
            Replace("docs/deploy.md", r"^\*\*PgBouncer\.\*\*(?s:.*?)(?=^\*\*)", ""),
        ),
        tests=("tests/test_main.py", "tests/deploy/test_compose.py", "tests/deploy/test_secrets.py"),
    ),
    "kubernetes": Part(
        (
            Remove("deploy/kubernetes/*"),
            Remove("deploy/*/kustomization.yaml"),
            Remove("tests/deploy/test_kubernetes.py"),
            Replace(".github/dependabot.yml", r"directories: \[/, /deploy/kubernetes/\*\*\]", "directory: /"),
        ),
        documents=(Remove("docs/kubernetes.md"),),
        tests=("tests/test_main.py", "tests/deploy/test_compose.py", "tests/deploy/test_alerts.py"),
    ),
}
KUBERNETES_OF_PGBOUNCER: tuple[Edit, ...] = (
    Remove("deploy/kubernetes/components/pgbouncer/*"),
    Remove("deploy/kubernetes/examples/pgbouncer/*"),
    # The other example has what only this one had.
    Replace(
        "deploy/kubernetes/examples/cloudnative-pg/kustomization.yaml",
        r"^( +- .*components)/argocd$",
        r"\g<0>\n\1/private-registry",
    ),
)


def without(part: str, files: MutableMapping[str, str], *, documents: bool = True) -> None:
    """Take a part out of `files`, texts by their paths. Raises EditFailed where it is not there."""
    apply(PARTS[part].edits, files)
    if documents:
        apply([edit for edit in PARTS[part].documents if edit.path in files], files)


def main(part: str) -> int:
    """Take it out of the current folder; 2 and a line where there is none of that name."""
    if part not in PARTS:
        sys.stderr.write(f".ci/without {'|'.join(PARTS)}\n")
        return 2
    folder = Path()
    before = _texts(folder)
    after = dict(before)
    try:
        without(part, after, documents=False)
    except EditFailed as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path in before.keys() - after.keys():
        _remove(folder / path)
    for path in (path for path, text in after.items() if text != before[path]):
        (folder / path).write_text(after[path], encoding="utf-8")
    tests = [str(found) for pattern in PARTS[part].tests for found in sorted(folder.glob(pattern))]
    sys.stdout.write("\n".join([PARTS[part].but, *tests]) + "\n")
    return 0


def _remove(path: Path) -> None:
    """Delete it, and the folders that are empty then, as git does; but for that of the next revision."""
    path.unlink()
    for parent in path.parents:
        if parent.name == "versions" or any(parent.iterdir()):
            break
        parent.rmdir()


def _texts(folder: Path) -> dict[str, str]:
    rooms = ("app", "deploy", "docs", "migrations", "tests", "packages/lifeguard/tests")
    paths = [path for room in rooms for path in (folder / room).rglob("*") if path.is_file()]
    texts = {
        name: (folder / name).read_text(encoding="utf-8")
        for name in ("docker-compose.yml", ".github/dependabot.yml")
    }
    for path in paths:
        if "__pycache__" not in path.parts:
            texts[str(path.relative_to(folder))] = path.read_text(encoding="utf-8", errors="surrogateescape")
    return texts


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:2] or [""]))
